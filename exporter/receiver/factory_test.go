package receiver

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/confmap/confmaptest"

	"github.com/connspan/connspan/exporter"
)

// metadata is what the tests read of metadata.yaml.
type metadata struct {
	Type   string `mapstructure:"type"`
	Status struct {
		Class     string              `mapstructure:"class"`
		Stability map[string][]string `mapstructure:"stability"`
	} `mapstructure:"status"`
	Telemetry struct {
		Metrics map[string]struct {
			Description string `mapstructure:"description"`
			Unit        string `mapstructure:"unit"`
		} `mapstructure:"metrics"`
	} `mapstructure:"telemetry"`
}

func readMetadata(t *testing.T) (m metadata) {
	t.Helper()
	conf, err := confmaptest.LoadConf("metadata.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if err := conf.Unmarshal(&m, confmap.WithIgnoreUnused()); err != nil {
		t.Fatal(err)
	}
	return m
}

// TestFactory holds the factory against metadata.yaml.
func TestFactory(t *testing.T) {
	m, f := readMetadata(t), NewFactory()
	if f.Type().String() != m.Type {
		t.Errorf("type %v, want %v", f.Type(), m.Type)
	}
	got := map[string][]string{}
	for _, of := range []struct {
		signal string
		level  component.StabilityLevel
	}{{"logs", f.LogsStability()}, {"metrics", f.MetricsStability()}, {"traces", f.TracesStability()}} {
		level := strings.ToLower(of.level.String())
		got[level] = append(got[level], of.signal)
	}
	if d := cmp.Diff(m.Status.Stability, got); d != "" {
		t.Errorf("stability:\n%s", d)
	}
	if m.Status.Class != "receiver" {
		t.Errorf("class %q", m.Status.Class)
	}
}

func TestDefaultConfig(t *testing.T) {
	cfg := NewFactory().CreateDefaultConfig()
	if err := componenttest.CheckConfigStruct(cfg); err != nil {
		t.Error(err)
	}
	if err := confmap.Validate(cfg); err != nil {
		t.Error(err)
	}
}

func TestConfig(t *testing.T) {
	tests := []struct {
		name string
		want func(*Config)
		err  string // a part of it
	}{
		{name: "empty", want: func(*Config) {}},
		{name: "full", want: func(c *Config) {
			c.QueueSize = 1000
			c.Exporter.Tracer.RingSize = 4 << 20
			c.Exporter.Tracer.Interval = 10 * time.Millisecond
			c.Exporter.Filter = []exporter.FilterRule{{Exclude: &exporter.FilterMatch{Port: []int{22}, NetNS: []exporter.NetNS{"4026531840", "/proc/1/ns/net"}}}}
			c.Exporter.Logs.Events = []string{exporter.EventFailed}
			c.Exporter.Metrics.Temporality = exporter.TemporalityDelta
			c.Exporter.Traces.SampleRatio = 0.5
			c.Exporter.Resource.Attributes = map[string]string{"deployment.environment.name": "test"}
		}},
		{name: "unknown", err: "has invalid keys: ring"},
		{name: "unknown_section", err: "has invalid keys: log"},
		{name: "queue", err: "queue_size: 0, want 1 to 100000000"},
		{name: "interval", err: "tracer::interval: 1m0s, want 1ms to 10s"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			conf, err := confmaptest.LoadConf(filepath.Join("testdata", "config.yaml"))
			if err != nil {
				t.Fatal(err)
			}
			section, err := conf.Sub(component.NewIDWithName(Type, tt.name).String())
			if err != nil {
				t.Fatal(err)
			}
			cfg := NewFactory().CreateDefaultConfig()
			if err = section.Unmarshal(cfg); err == nil {
				err = confmap.Validate(cfg)
			}
			if tt.err != "" {
				if err == nil || strings.Count(err.Error(), tt.err) != 1 {
					t.Fatalf("%v, want %q in it, once", err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			want := NewFactory().CreateDefaultConfig().(*Config)
			tt.want(want)
			if d := cmp.Diff(want, cfg); d != "" {
				t.Error(d)
			}
		})
	}
}
