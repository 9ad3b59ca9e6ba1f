package console

import (
	"fmt"

	"go.opentelemetry.io/collector/confmap"
)

// Values of [Config].Format.
const (
	FormatText     = "text"
	FormatOTLPJSON = "otlp_json"
)

// Config configures the output. Start from [NewDefaultConfig].
type Config struct {
	// Format is FormatText, a line with columns for each log record and nothing of the other signals, or
	// FormatOTLPJSON, an OTLP/JSON export request per line.
	Format string `mapstructure:"format"`
}

var _ confmap.Validator = (*Config)(nil)

// NewDefaultConfig returns the configuration for text.
func NewDefaultConfig() *Config { return &Config{Format: FormatText} }

// Validate checks the format.
func (c *Config) Validate() error {
	if c.Format != FormatText && c.Format != FormatOTLPJSON {
		return fmt.Errorf("format: %q, want %s or %s", c.Format, FormatText, FormatOTLPJSON)
	}
	return nil
}
