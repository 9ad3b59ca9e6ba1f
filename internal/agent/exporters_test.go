package agent

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// A sender is made for each signal that is on, where the exporter takes it.
func TestSignalsOfExporters(t *testing.T) {
	for config, want := range map[string]struct {
		senders string
		targets []string
	}{
		"": {"console [logs]", []string{"console to stdout"}},
		"exporters: {console: {format: otlp_json}}":                                                                    {"console [logs metrics traces]", []string{"console to stdout"}},
		"exporters: {console: , otlp: {endpoint: 'x:1'}}":                                                              {"console [logs], otlp [logs metrics traces]", []string{"console to stdout", "otlp to x:1"}},
		"logs: {events: []}\nexporters: {otlp: {endpoint: 'x:1'}}":                                                     {"otlp [metrics traces]", []string{"otlp to x:1"}},
		"logs: {events: [], heartbeat: 1s}\nexporters: {otlp: {endpoint: 'x:1'}}":                                      {"otlp [logs metrics traces]", []string{"otlp to x:1"}},
		"logs: {events: []}\ntelemetry: {logs: {otlp: true}}\nexporters: {otlp: {endpoint: 'x:1'}, console: }":         {"console [], otlp [logs metrics traces]", []string{"otlp to x:1"}},
		"metrics: {interval: 0s}\nexporters: {otlp: {endpoint: 'x:1'}}":                                                {"otlp [logs traces]", []string{"otlp to x:1"}},
		"traces: {sample_ratio: 0}\nexporters: {otlp: {endpoint: 'x:1'}}":                                              {"otlp [logs metrics]", []string{"otlp to x:1"}},
		"exporters: {otlphttp: {endpoint: 'http://x'}}":                                                                {"otlphttp [logs metrics traces]", []string{"otlphttp to http://x"}},
		"exporters: {otlphttp: {endpoint: 'http://x', traces_endpoint: 'http://u:p@y/t'}}":                             {"otlphttp [logs metrics traces]", []string{"otlphttp to http://x", "otlphttp to http://u:xxxxx@y/t"}},
		"exporters: {otlphttp: {logs_endpoint: 'http://y/l'}}":                                                         {"otlphttp [logs]", []string{"otlphttp to http://y/l"}},
		"logs: {events: []}\nmetrics: {interval: 0s}\ntraces: {sample_ratio: 0}\nexporters: {otlp: {endpoint: 'x:1'}}": {"otlp []", nil},
	} {
		t.Run(config, func(t *testing.T) {
			cfg := mustLoad(t, config)
			var stderr output
			e, err := newExporters("", cfg, startTelemetry(t), newLogger("info", &stderr), os.Stdout, func(error) {})
			if err != nil {
				t.Fatal(err)
			}
			defer e.shutdown()
			var got []string
			for _, x := range e.all {
				var signals []signalType
				for _, s := range x.senders {
					signals = append(signals, s.signal)
				}
				got = append(got, fmt.Sprint(x.id, " ", signals))
			}
			if diff := cmp.Diff(want.senders, strings.Join(got, ", ")); diff != "" {
				t.Errorf("senders (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(want.targets, e.targets()); diff != "" {
				t.Errorf("targets (-want +got):\n%s", diff)
			}
		})
	}
}

func TestStorageThatCannotBe(t *testing.T) {
	file := write(t, "")
	got := mainWith("run", "--btf", "/nonexistent", "--config", write(t, "telemetry: {address: ''}\nstorage: {directory: "+file+"}"))
	wantResult(t, result{1, "", "connspan: storage: creating the directory of the queues: mkdir " + file + ": not a directory\n"}, got)
}

// The second program ends, and does the first no harm.
func TestStorageOfAnother(t *testing.T) {
	cfg := mustLoad(t, "telemetry: {address: ''}\nstorage: {directory: "+filepath.Join(t.TempDir(), "queues")+"}\nexporters: {otlp: {endpoint: '127.0.0.1:1', tls: {insecure: true}}}")
	var stderr output
	e, err := newExporters("", cfg, startTelemetry(t), newLogger("warn", &stderr), os.Stdout, func(error) {})
	if err != nil {
		t.Fatal(err)
	}
	if err := e.start(); err != nil {
		t.Fatal(err)
	}
	defer e.shutdown()
	got := mainWith("run", "--btf", "/nonexistent", "--config", write(t, "telemetry: {address: ''}\nstorage: {directory: "+cfg.Storage.Directory+"}"))
	wantResult(t, result{1, "", "connspan: storage: locking the directory of the queues " + cfg.Storage.Directory + ": another process uses it\n"}, got)
}
