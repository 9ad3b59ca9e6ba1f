package telemetry

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
)

// Config is the section telemetry of the configuration. Start from [NewDefaultConfig].
type Config struct {
	// Address is where /metrics and /healthz are served, host:port. Empty: nowhere.
	Address string     `mapstructure:"address"`
	Logs    LogsConfig `mapstructure:"logs"`
}

// LogsConfig is about the program's own messages, which go to stderr.
type LogsConfig struct {
	// Level is the least severity that is told: debug, info, warn or error.
	Level string `mapstructure:"level"`
	// OTLP has the messages go to the OTLP exporters as well, but for those of the exporters themselves.
	OTLP bool `mapstructure:"otlp"`
}

var levels = []string{"debug", "info", "warn", "error"}

// NewDefaultConfig gives what an empty section stands for. The port is the one that OpenTelemetry's
// Prometheus exporters have, on loopback: who reaches it learns how busy this host is.
func NewDefaultConfig() Config {
	return Config{Address: "127.0.0.1:9464", Logs: LogsConfig{Level: "info"}}
}

// Validate names each key that holds what it must not, with the value and what was expected.
func (c *Config) Validate() error {
	return errors.Join(c.validateAddress(), c.Logs.validate())
}

func (c *Config) validateAddress() error {
	if c.Address == "" {
		return nil
	}
	_, port, err := net.SplitHostPort(c.Address)
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err != nil {
		return fmt.Errorf(`telemetry::address: %q, want host:port as in "127.0.0.1:9464", or "" for none`, c.Address)
	}
	return nil
}

func (c *LogsConfig) validate() error {
	if !slices.Contains(levels, c.Level) {
		last := len(levels) - 1
		return fmt.Errorf("telemetry::logs::level: %q, want %s or %s", c.Level, strings.Join(levels[:last], ", "), levels[last])
	}
	return nil
}
