package otlp

import (
	"reflect"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/collector/config/configcompression"
	"go.opentelemetry.io/collector/config/configoptional"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/exporter/exporterhelper"
)

// load decodes and checks YAML as the agent and the Collector do.
func load(t *testing.T, yaml string, cfg any) error {
	t.Helper()
	retrieved, err := confmap.NewRetrievedFromYAML([]byte(yaml))
	if err != nil {
		t.Fatal(err)
	}
	conf, err := retrieved.AsConf()
	if err != nil {
		t.Fatal(err)
	}
	if err := conf.Unmarshal(cfg); err != nil {
		return err
	}
	return confmap.Validate(cfg)
}

// all compares unexported fields too: configoptional keeps everything there.
var all = cmp.Exporter(func(reflect.Type) bool { return true })

func TestGRPCConfigFromYAML(t *testing.T) {
	got := NewDefaultGRPCConfig()
	err := load(t, `
endpoint: collector:4317
timeout: 3s
compression: zstd
tls: {insecure: true}
headers: {authorization: Bearer token}
sending_queue:
  queue_size: 100000
  batch: {max_size: 1024, min_size: 512}
retry_on_failure: {initial_interval: 100ms}
`, got)
	if err != nil {
		t.Fatal(err)
	}

	want := NewDefaultGRPCConfig()
	want.ClientConfig.Endpoint = "collector:4317"
	want.TimeoutConfig.Timeout = 3 * time.Second
	want.ClientConfig.Compression = configcompression.TypeZstd
	want.ClientConfig.TLS.Insecure = true
	want.ClientConfig.Headers.Set("authorization", "Bearer token")
	want.QueueConfig.Get().QueueSize = 100_000
	batch := exporterhelper.NewDefaultBatchConfig()
	batch.MaxSize, batch.MinSize = 1024, 512
	want.QueueConfig.Get().Batch = configoptional.Some(batch)
	want.RetryConfig.InitialInterval = 100 * time.Millisecond
	if diff := cmp.Diff(want, got, all); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestHTTPConfigFromYAML(t *testing.T) {
	got := NewDefaultHTTPConfig()
	err := load(t, `
endpoint: https://collector:4318
logs_endpoint: https://collector:4318/logs
metrics_endpoint: https://collector:4318/metrics
traces_endpoint: https://collector:4318/traces
encoding: json
timeout: 3s
tls: {ca_file: ca.pem}
sending_queue: {enabled: false}
retry_on_failure: {enabled: false}
`, got)
	if err != nil {
		t.Fatal(err)
	}

	want := NewDefaultHTTPConfig()
	want.ClientConfig.Endpoint = "https://collector:4318"
	want.LogsEndpoint = "https://collector:4318/logs"
	want.MetricsEndpoint = "https://collector:4318/metrics"
	want.TracesEndpoint = "https://collector:4318/traces"
	want.Encoding = EncodingJSON
	want.ClientConfig.Timeout = 3 * time.Second
	want.ClientConfig.TLS.CAFile = "ca.pem"
	want.QueueConfig = configoptional.None[exporterhelper.QueueBatchConfig]()
	want.RetryConfig.Enabled = false
	if diff := cmp.Diff(want, got, all); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestGRPCConfigErrors(t *testing.T) {
	for _, tt := range []struct{ name, yaml, want string }{
		{name: "no endpoint", yaml: "{}", want: `endpoint: empty, want host:port as in "localhost:4317"`},
		{
			name: "no port", yaml: "endpoint: localhost",
			want: `endpoint: "localhost", want host:port as in "localhost:4317"
clientconfig: address localhost: missing port in address`,
		},
		{name: "port out of range", yaml: "endpoint: localhost:99999", want: `endpoint: "localhost:99999", want host:port as in "localhost:4317"`},
		{name: "resolver target without port", yaml: "endpoint: dns:///localhost", want: "clientconfig: address localhost: missing port in address"},
		{
			name: "compression that gRPC has not", yaml: "{endpoint: 'localhost:4317', compression: zlib}",
			want: `compression: "zlib", want "gzip", "snappy", "zstd" or "none"`,
		},
		{
			name: "unknown compression", yaml: "{endpoint: 'localhost:4317', compression: zip}",
			want: "decoding failed due to the following error(s):\n\n'compression' unsupported compression type \"zip\"",
		},
		{
			name: "unknown key", yaml: "{endpoint: 'localhost:4317', end_point: x}",
			want: "decoding failed due to the following error(s):\n\n'otlp.GRPCConfig' has invalid keys: end_point",
		},
		{
			name: "unknown key below", yaml: "{endpoint: 'localhost:4317', tls: {ca: x}}",
			want: "decoding failed due to the following error(s):\n\n'tls' has invalid keys: ca",
		},
		{
			name: "not a duration", yaml: "{endpoint: 'localhost:4317', timeout: soon}",
			want: "decoding failed due to the following error(s):\n\n'timeout' time: invalid duration",
		},
		{name: "timeout", yaml: "{endpoint: 'localhost:4317', timeout: -1s}", want: "timeoutconfig: timeout value must be greater than or equal to 0"},
		{name: "queue", yaml: "{endpoint: 'localhost:4317', sending_queue: {queue_size: -1}}", want: "sending_queue: `queue_size` must be positive"},
		{
			name: "batch", yaml: "{endpoint: 'localhost:4317', sending_queue: {batch: {max_size: -1}}}",
			want: "sending_queue: batch: `max_size` must be non-negative, found -1",
		},
		{
			name: "retry", yaml: "{endpoint: 'localhost:4317', retry_on_failure: {max_elapsed_time: 1s}}",
			want: "retry_on_failure: 'max_elapsed_time' must not be less than 'max_interval'",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if err := load(t, tt.yaml, NewDefaultGRPCConfig()); err == nil || err.Error() != tt.want {
				t.Errorf("%s\n got %v\nwant %s", tt.yaml, err, tt.want)
			}
		})
	}
}

func TestHTTPConfigErrors(t *testing.T) {
	for _, tt := range []struct{ name, yaml, want string }{
		{name: "no endpoint", yaml: "{}", want: `endpoint: empty, want a URL as in "http://localhost:4318"`},
		{
			name: "no scheme", yaml: "endpoint: localhost:4318",
			want: `endpoint: "localhost:4318", want a URL that begins with http:// or https:// and names a host`,
		},
		{
			name: "other scheme", yaml: "endpoint: ftp://localhost:4318",
			want: `endpoint: "ftp://localhost:4318", want a URL that begins with http:// or https:// and names a host`,
		},
		{
			name: "no host", yaml: "endpoint: 'http://'",
			want: `endpoint: "http://", want a URL that begins with http:// or https:// and names a host`,
		},
		{
			name: "not a URL", yaml: "endpoint: 'http://local host'",
			want: `endpoint: "http://local host", want a URL that begins with http:// or https:// and names a host`,
		},
		{
			name: "logs_endpoint", yaml: "logs_endpoint: /v1/logs",
			want: `logs_endpoint: "/v1/logs", want a URL that begins with http:// or https:// and names a host`,
		},
		{
			name: "metrics_endpoint, traces_endpoint", yaml: "{metrics_endpoint: x, traces_endpoint: y}",
			want: `metrics_endpoint: "x", want a URL that begins with http:// or https:// and names a host
traces_endpoint: "y", want a URL that begins with http:// or https:// and names a host`,
		},
		{name: "encoding", yaml: "{endpoint: 'http://localhost:4318', encoding: xml}", want: `encoding: "xml", want "proto" or "json"`},
		{
			name: "unknown key", yaml: "{endpoint: 'http://localhost:4318', end_point: x}",
			want: "decoding failed due to the following error(s):\n\n'' decoding failed due to the following error(s):\n\n" +
				"'otlp.httpKeys' has invalid keys: end_point",
		},
		{
			name: "unknown key below", yaml: "{endpoint: 'http://localhost:4318', tls: {ca: x}}",
			want: "decoding failed due to the following error(s):\n\n'' decoding failed due to the following error(s):\n\n" +
				"'tls' has invalid keys: ca",
		},
		{
			name: "compression level", yaml: "{endpoint: 'http://localhost:4318', compression_params: {level: 99}}",
			want: `clientconfig: unsupported parameters {Level:99} for compression type "gzip"`,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if err := load(t, tt.yaml, NewDefaultHTTPConfig()); err == nil || err.Error() != tt.want {
				t.Errorf("%s\n got %v\nwant %s", tt.yaml, err, tt.want)
			}
		})
	}
}

// TestNewChecksConfig: what was built in code is checked too.
func TestNewChecksConfig(t *testing.T) {
	_, err := NewGRPCLogs(t.Context(), settings(), NewDefaultGRPCConfig())
	if want := `configuring otlp: endpoint: empty, want host:port as in "localhost:4317"`; err == nil || err.Error() != want {
		t.Errorf("gRPC: got %v, want %s", err, want)
	}
	onlyTraces := NewDefaultHTTPConfig()
	onlyTraces.TracesEndpoint = "http://localhost:4318/traces"
	_, err = NewHTTPLogs(t.Context(), settings(), onlyTraces)
	if want := `configuring otlp: endpoint: empty, want a URL as in "http://localhost:4318"`; err == nil || err.Error() != want {
		t.Errorf("HTTP: got %v, want %s", err, want)
	}
}
