package receiver

import (
	"fmt"

	"go.opentelemetry.io/collector/component"

	"github.com/connspan/connspan/exporter"
)

// Config is the receiver's section of a Collector's configuration.
type Config struct {
	// Exporter has the keys of the agent's own configuration: tracer, filter, logs, metrics, traces, resource.
	Exporter exporter.Config `mapstructure:",squash"`
	// QueueSize bounds what may wait for a pipeline: log records, data points or spans, each signal
	// for itself. A batch that is larger than that still passes through an empty queue.
	QueueSize int `mapstructure:"queue_size"`
}

const maxQueueSize = 100_000_000

func newDefaultConfig() component.Config {
	return &Config{Exporter: exporter.NewDefaultConfig(), QueueSize: 50_000}
}

// Validate checks what is the receiver's own; confmap.Validate calls that of Exporter by itself.
func (c *Config) Validate() error {
	if c.QueueSize < 1 || c.QueueSize > maxQueueSize {
		return fmt.Errorf("queue_size: %d, want 1 to %d", c.QueueSize, maxQueueSize)
	}
	return nil
}
