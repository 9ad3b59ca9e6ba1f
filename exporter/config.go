package exporter

import (
	"encoding"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/connspan/connspan/internal/probe"
)

// Config says what to trace and what to tell of it. Start from [NewDefaultConfig]. The mapstructure
// names are the keys of the YAML.
type Config struct {
	Tracer   TracerConfig   `mapstructure:"tracer"`
	Logs     LogsConfig     `mapstructure:"logs"`
	Resource ResourceConfig `mapstructure:"resource"`
}

// TracerConfig is the part between kernel and ordered stream.
type TracerConfig struct {
	// RingSize is the octets of ring buffer per possible CPU; 0, in YAML auto, chooses by the
	// number of CPUs: 1 MiB, less where all together would need more than 64 MiB.
	RingSize Size `mapstructure:"ring_size"`
	// Interval is the longest time between two rounds of reading while events keep coming.
	Interval time.Duration `mapstructure:"interval"`
	// Guard is how far the kernel's clock may step back between CPUs: an event waits that much
	// longer than its order demands.
	Guard time.Duration `mapstructure:"guard"`
	// MaxHold bounds how long an event may wait for a CPU that sleeps inside the tracer; what
	// waits longer is released out of turn and flagged. 0: as long as MaxPending allows.
	MaxHold time.Duration `mapstructure:"max_hold"`
	// MaxPending bounds how many events may wait.
	MaxPending int `mapstructure:"max_pending"`
	// Audit is how often the table of open connections is compared with the kernel's own sockets
	// although nothing is known to be lost; it takes about 0.1 µs a socket.
	Audit time.Duration `mapstructure:"audit"`
	// BTF is a file with the types of the running kernel, for a kernel that does not carry them.
	// It is no key of the YAML.
	BTF string `mapstructure:"-"`
}

// LogsConfig chooses the log records.
type LogsConfig struct {
	// Events are the kinds to tell: opened, closed, failed. Empty: none.
	Events []string `mapstructure:"events"`
}

// ResourceConfig adds to the Resource of each traced process.
type ResourceConfig struct {
	// Attributes go over those that are found, also over OTEL_RESOURCE_ATTRIBUTES.
	Attributes map[string]string `mapstructure:"attributes"`
}

// The values of LogsConfig.Events.
const (
	EventOpened = "opened"
	EventClosed = "closed"
	EventFailed = "failed"
)

// NewDefaultConfig gives the configuration that an empty file stands for.
func NewDefaultConfig() Config {
	return Config{
		Tracer: TracerConfig{
			Interval:   50 * time.Millisecond,
			Guard:      20 * time.Microsecond,
			MaxPending: 1_000_000,
			Audit:      time.Minute,
		},
		Logs: LogsConfig{Events: []string{EventOpened, EventClosed, EventFailed}},
	}
}

// Validate names each key that holds what it must not, with the value and what was expected.
func (c *Config) Validate() error {
	return errors.Join(c.Tracer.validate(), c.Logs.validate(), c.Resource.validate())
}

func (c *TracerConfig) validate() error {
	var errs []error
	if err := (probe.Config{RingSize: int(c.RingSize)}).Validate(); err != nil {
		errs = append(errs, fmt.Errorf("tracer::ring_size: %w", err))
	}
	if c.Interval < time.Millisecond || c.Interval > 10*time.Second {
		errs = append(errs, fmt.Errorf("tracer::interval: %v, want 1ms to 10s", c.Interval))
	}
	if c.Guard < 0 || c.Guard > time.Second {
		errs = append(errs, fmt.Errorf("tracer::guard: %v, want 0s to 1s", c.Guard))
	}
	if c.MaxHold < 0 {
		errs = append(errs, fmt.Errorf("tracer::max_hold: %v, want 0s (no bound) or more", c.MaxHold))
	}
	if c.MaxPending < 1000 || c.MaxPending > 100_000_000 {
		errs = append(errs, fmt.Errorf("tracer::max_pending: %d, want 1000 to 100000000", c.MaxPending))
	}
	if c.Audit < time.Second {
		errs = append(errs, fmt.Errorf("tracer::audit: %v, want 1s or more", c.Audit))
	}
	return errors.Join(errs...)
}

func (c *LogsConfig) validate() error {
	for _, e := range c.Events {
		if !slices.Contains([]string{EventOpened, EventClosed, EventFailed}, e) {
			return fmt.Errorf("logs::events: %q, want %s, %s or %s", e, EventOpened, EventClosed, EventFailed)
		}
	}
	return nil
}

func (c *ResourceConfig) validate() error {
	if _, ok := c.Attributes[""]; ok {
		return errors.New("resource::attributes: an empty name, want one")
	}
	return nil
}

// Size is a number of octets. As text it has a unit (64KiB, 1MiB, 1GiB) or none; auto is 0.
type Size int

var (
	_ encoding.TextUnmarshaler = (*Size)(nil)
	_ encoding.TextMarshaler   = Size(0)
)

var units = []struct {
	name string
	size Size
}{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}}

// UnmarshalText reads what MarshalText writes, and plain numbers.
func (s *Size) UnmarshalText(text []byte) error {
	number, unit := string(text), Size(1)
	if number == "auto" {
		*s = 0
		return nil
	}
	for _, u := range units {
		if rest, ok := strings.CutSuffix(number, u.name); ok {
			number, unit = rest, u.size
			break
		}
	}
	n, err := strconv.ParseUint(strings.TrimSpace(number), 10, 32)
	if err != nil || n > uint64(1<<40/unit) {
		return fmt.Errorf("size %q: want auto, or a number with KiB, MiB, GiB or no unit", text)
	}
	*s = Size(n) * unit
	return nil
}

// MarshalText writes the size in the largest unit that divides it.
func (s Size) MarshalText() ([]byte, error) {
	if s == 0 {
		return []byte("auto"), nil
	}
	for _, u := range units {
		if s%u.size == 0 {
			return fmt.Appendf(nil, "%d%s", s/u.size, u.name), nil
		}
	}
	return fmt.Appendf(nil, "%d", s), nil
}
