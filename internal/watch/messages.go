package watch

import (
	"context"
	"log/slog"
	"strings"
	"sync"

	"github.com/connspan/connspan/internal/event"
)

// maxMessages bounds the messages that wait for the end.
const maxMessages = 100

// messages keeps the program's own messages off the screen: the newest is shown in a line of it, and
// those that matter are given to their handler when the screen is gone. It may be used concurrently.
type messages struct {
	mu     sync.Mutex
	line   string
	kept   []message // the newest
	passed int       // messages before them
}

type message struct {
	record slog.Record
	to     slog.Handler
}

// newest is the newest message, on one line.
func (m *messages) newest() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.line
}

func (m *messages) add(r slog.Record, to slog.Handler) {
	var line strings.Builder
	line.WriteString(r.Time.Format("15:04:05 ") + r.Message)
	r.Attrs(func(a slog.Attr) bool {
		line.WriteString(" " + a.String())
		return true
	})
	m.mu.Lock()
	defer m.mu.Unlock()
	m.line = event.Printable(line.String())
	if r.Level < slog.LevelWarn {
		return
	}
	m.kept = append(m.kept, message{r.Clone(), to})
	if len(m.kept) > maxMessages {
		m.kept = m.kept[1:]
		m.passed++
	}
}

// release gives what was kept to where it was for.
func (m *messages) release(ctx context.Context, logger *slog.Logger) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.passed > 0 {
		logger.Warn("messages are left out before these", "left_out", m.passed)
	}
	for _, kept := range m.kept {
		_ = kept.to.Handle(ctx, kept.record) // there is nobody left to tell
	}
	m.kept, m.passed = nil, 0
}

// held is a slog.Handler that gives messages what is for the handler in it.
type held struct {
	slog.Handler
	messages *messages
}

// Handle keeps the message.
func (h held) Handle(_ context.Context, r slog.Record) error {
	h.messages.add(r, h.Handler)
	return nil
}

// WithAttrs keeps to the interface.
func (h held) WithAttrs(attrs []slog.Attr) slog.Handler {
	return held{h.Handler.WithAttrs(attrs), h.messages}
}

// WithGroup keeps to the interface.
func (h held) WithGroup(name string) slog.Handler {
	return held{h.Handler.WithGroup(name), h.messages}
}
