package console

import "bytes"

// asJSON writes an OTLP/JSON export request per line.
func asJSON[T any, R interface{ MarshalJSON() ([]byte, error) }](request func(T) R) func(*bytes.Buffer, T) error {
	return func(b *bytes.Buffer, data T) error {
		line, err := request(data).MarshalJSON()
		if err != nil {
			return err
		}
		b.Write(line)
		b.WriteByte('\n')
		return nil
	}
}
