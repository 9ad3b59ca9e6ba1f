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
	Tracer TracerConfig `mapstructure:"tracer"`
	// Filter says which connections are told of: the first rule that matches does, and without one they are.
	Filter   []FilterRule   `mapstructure:"filter"`
	Logs     LogsConfig     `mapstructure:"logs"`
	Metrics  MetricsConfig  `mapstructure:"metrics"`
	Traces   TracesConfig   `mapstructure:"traces"`
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
	// although nothing is known to be lost; see BenchmarkSnapshot in internal/probe for what it costs.
	Audit time.Duration `mapstructure:"audit"`
	// BTF is a file with the types of the running kernel, for a kernel that does not carry them.
	// It is no key of the YAML.
	BTF string `mapstructure:"-"`
}

// LogsConfig chooses the log records.
type LogsConfig struct {
	// Events are the kinds to tell: opened, closed, failed. Empty: none.
	Events []string `mapstructure:"events"`
	// Heartbeat is how often each connection that has been open for longer is told of, with its
	// totals so far. 0: never.
	Heartbeat time.Duration `mapstructure:"heartbeat"`
	// LegacyEventName also puts the event's name into the attribute event.name, for stores that do
	// not know the field EventName of a log record.
	LegacyEventName bool `mapstructure:"legacy_event_name"`
}

// MetricsConfig is about the connection metrics.
type MetricsConfig struct {
	// Interval is how often the metrics are told, and the totals of open connections read. 0: never.
	Interval time.Duration `mapstructure:"interval"`
	// Temporality is cumulative or delta.
	Temporality string `mapstructure:"temporality"`
	// Histogram is explicit (fixed buckets) or exponential.
	Histogram string `mapstructure:"histogram"`
	// Attributes tell the series of a metric apart, of those that it can have: see MetricAttributes.
	Attributes []string `mapstructure:"attributes"`
	// MaxSeries bounds the series of each metric. What would need another one goes to a series with
	// the attribute otel.metric.overflow.
	MaxSeries int `mapstructure:"max_series"`
	// ExpireAfter is how long a series is told without a change.
	ExpireAfter time.Duration `mapstructure:"expire_after"`
}

// TracesConfig is about the spans.
type TracesConfig struct {
	// SampleRatio is the share of the traces that are told, chosen by trace id, so that both ends of
	// a connection choose alike. 0: none.
	SampleRatio float64 `mapstructure:"sample_ratio"`
	// Pairing says whether the two ends of a connection share a trace (both_ends), or each has one
	// of its own (none).
	Pairing string `mapstructure:"pairing"`
}

// ResourceConfig is about the Resource of each traced process.
type ResourceConfig struct {
	// Attributes go over those that are found, also over OTEL_RESOURCE_ATTRIBUTES.
	Attributes map[string]string `mapstructure:"attributes"`
	// Services name the services of processes. The first that matches counts, over all else.
	Services []ServiceRule `mapstructure:"services"`
	// Environment takes what OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES say in the environment of
	// the traced process.
	Environment bool `mapstructure:"environment"`
	// CommandLine tells process.command_args.
	CommandLine bool `mapstructure:"command_line"`
	// Redact are globs of the names of options, in any case, whose values are replaced in command lines.
	Redact []string `mapstructure:"redact"`
}

// ServiceRule names the service of the processes that it matches.
type ServiceRule struct {
	Match     ServiceMatch `mapstructure:"match"`
	Name      string       `mapstructure:"name"`
	Namespace string       `mapstructure:"namespace"`
}

// ServiceMatch are globs, all of which have to match, those that are empty excepted: * is any text, ? any
// character.
type ServiceMatch struct {
	// Executable is for the path of what is executed, or its name.
	Executable string `mapstructure:"executable"`
	// Container is for the id of the container, for the first 12 characters of that, or for its name where
	// it is known.
	Container string `mapstructure:"container"`
	// Unit is for the systemd unit, as systemctl shows it.
	Unit string `mapstructure:"unit"`
	// Cgroup is for the path of the control group, as /proc/PID/cgroup shows it.
	Cgroup string `mapstructure:"cgroup"`
	// Command is for the command line, joined by spaces, after redaction.
	Command string `mapstructure:"command"`
}

// The values of LogsConfig.Events.
const (
	EventOpened = "opened"
	EventClosed = "closed"
	EventFailed = "failed"
)

// The values of MetricsConfig.Temporality, MetricsConfig.Histogram and TracesConfig.Pairing.
const (
	TemporalityCumulative = "cumulative"
	TemporalityDelta      = "delta"

	HistogramExplicit    = "explicit"
	HistogramExponential = "exponential"

	PairingBothEnds = "both_ends"
	PairingNone     = "none"
)

// MetricAttributes are the values of MetricsConfig.Attributes, server.address excepted all on by default.
// A metric's own attributes (error.type, network.io.direction, the reason and initiator of a close)
// are no choice.
var MetricAttributes = []string{attrRole, attrType, attrServerPort, attrExecutable, attrServerAddr}

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
		Metrics: MetricsConfig{
			Interval:    15 * time.Second,
			Temporality: TemporalityCumulative,
			Histogram:   HistogramExplicit,
			Attributes:  []string{attrRole, attrType, attrServerPort, attrExecutable},
			MaxSeries:   2000,
			ExpireAfter: 5 * time.Minute,
		},
		Traces: TracesConfig{SampleRatio: 1, Pairing: PairingBothEnds},
		Resource: ResourceConfig{
			Environment: true,
			Redact: []string{
				"*password*", "*passwd*", "*passphrase*", "pass", "*?pass", "*secret*", "*token*", "*bearer*", "*cookie*",
				"*credential*", "*authorization*",
				"*api?key*", "*apikey*", "*access?key*", "*accesskey*", "*private?key*", "*privatekey*",
			},
		},
	}
}

// Validate names each key that holds what it must not, with the value and what was expected.
func (c *Config) Validate() error {
	return errors.Join(c.Tracer.validate(), validateFilter(c.Filter), c.Logs.validate(), c.Metrics.validate(), c.Traces.validate(), c.Resource.validate())
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
	if c.Heartbeat != 0 && c.Heartbeat < time.Second {
		return fmt.Errorf("logs::heartbeat: %v, want 0s (never), or 1s or more", c.Heartbeat)
	}
	for _, e := range c.Events {
		if !slices.Contains([]string{EventOpened, EventClosed, EventFailed}, e) {
			return fmt.Errorf("logs::events: %q, want %s, %s or %s", e, EventOpened, EventClosed, EventFailed)
		}
	}
	return nil
}

func (c *MetricsConfig) validate() error {
	var errs []error
	if c.Interval != 0 && c.Interval < time.Second {
		errs = append(errs, fmt.Errorf("metrics::interval: %v, want 0s (never), or 1s or more", c.Interval))
	}
	if c.Temporality != TemporalityCumulative && c.Temporality != TemporalityDelta {
		errs = append(errs, fmt.Errorf("metrics::temporality: %q, want %s or %s", c.Temporality, TemporalityCumulative, TemporalityDelta))
	}
	if c.Histogram != HistogramExplicit && c.Histogram != HistogramExponential {
		errs = append(errs, fmt.Errorf("metrics::histogram: %q, want %s or %s", c.Histogram, HistogramExplicit, HistogramExponential))
	}
	for _, a := range c.Attributes {
		if !slices.Contains(MetricAttributes, a) {
			errs = append(errs, fmt.Errorf("metrics::attributes: %q, want some of %s", a, strings.Join(MetricAttributes, ", ")))
		}
	}
	if c.MaxSeries < 1 || c.MaxSeries > 1_000_000 {
		errs = append(errs, fmt.Errorf("metrics::max_series: %d, want 1 to 1000000", c.MaxSeries))
	}
	if c.ExpireAfter < c.Interval {
		errs = append(errs, fmt.Errorf("metrics::expire_after: %v, want metrics::interval (%v) or more", c.ExpireAfter, c.Interval))
	}
	return errors.Join(errs...)
}

func (c *TracesConfig) validate() error {
	var errs []error
	if !(c.SampleRatio >= 0 && c.SampleRatio <= 1) { // not NaN either
		errs = append(errs, fmt.Errorf("traces::sample_ratio: %v, want 0 to 1", c.SampleRatio))
	}
	if c.Pairing != PairingBothEnds && c.Pairing != PairingNone {
		errs = append(errs, fmt.Errorf("traces::pairing: %q, want %s or %s", c.Pairing, PairingBothEnds, PairingNone))
	}
	return errors.Join(errs...)
}

func (c *ResourceConfig) validate() error {
	var errs []error
	if _, ok := c.Attributes[""]; ok {
		errs = append(errs, errors.New("resource::attributes: an empty name, want one"))
	}
	for i, rule := range c.Services {
		if rule.Name == "" {
			errs = append(errs, fmt.Errorf("resource::services::%d::name: empty, want the name of a service", i))
		}
		if rule.Match == (ServiceMatch{}) {
			errs = append(errs, fmt.Errorf("resource::services::%d::match: empty, want executable, container, unit, cgroup or command", i))
		}
	}
	if slices.Contains(c.Redact, "") {
		errs = append(errs, errors.New(`resource::redact: "", want a glob such as *password*`))
	}
	return errors.Join(errs...)
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
