package console

import (
	"bytes"

	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
)

// otlpJSON writes an OTLP/JSON export request per line.
type otlpJSON struct{}

func (otlpJSON) encode(b *bytes.Buffer, ld plog.Logs) error {
	request, err := plogotlp.NewExportRequestFromLogs(ld).MarshalJSON()
	if err != nil {
		return err
	}
	b.Write(request)
	b.WriteByte('\n')
	return nil
}
