package otlp

import (
	"strings"

	"go.uber.org/zap/zapcore"
)

// rejecting begins the message with which the helper logs the error that it returns.
const rejecting = "Exporting failed. Rejecting data."

// quiet has the outer helper tell only who debugs what nobody else needs to hear: that a queue begins,
// and what the caller is told as an error.
type quiet struct{ zapcore.Core }

func (q quiet) With(fields []zapcore.Field) zapcore.Core { return quiet{q.Core.With(fields)} }

func (q quiet) Check(entry zapcore.Entry, checked *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if entry.Level == zapcore.InfoLevel || strings.HasPrefix(entry.Message, rejecting) {
		entry.Level = zapcore.DebugLevel
	}
	return q.Core.Check(entry, checked)
}
