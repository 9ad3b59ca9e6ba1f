package otlp

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.opentelemetry.io/collector/config/configcompression"
	"go.opentelemetry.io/collector/config/configgrpc"
	"go.opentelemetry.io/collector/config/confighttp"
	"go.opentelemetry.io/collector/config/configoptional"
	"go.opentelemetry.io/collector/config/configretry"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/exporter"
	"go.opentelemetry.io/collector/exporter/exporterhelper"
)

// Values of [HTTPConfig].Encoding.
const (
	EncodingProto = "proto"
	EncodingJSON  = "json"
)

// GRPCConfig configures OTLP over gRPC. Its keys are those of the Collector's otlp exporter.
//
// Start from [NewDefaultGRPCConfig], decode with confmap.Conf.Unmarshal, check with confmap.Validate.
type GRPCConfig struct {
	// TimeoutConfig holds timeout, for one attempt to send one request.
	TimeoutConfig exporterhelper.TimeoutConfig `mapstructure:",squash"`
	// QueueConfig bounds what waits to be sent and how it is put together to requests.
	QueueConfig configoptional.Optional[exporterhelper.QueueBatchConfig] `mapstructure:"sending_queue"`
	// RetryConfig tells how long to wait between attempts and when to give up.
	RetryConfig configretry.BackOffConfig `mapstructure:"retry_on_failure"`
	// ClientConfig holds endpoint, tls, headers, compression, keepalive and so on.
	ClientConfig configgrpc.ClientConfig `mapstructure:",squash"`
}

// HTTPConfig configures OTLP over HTTP. Its keys are those of the Collector's otlphttp exporter,
// but for profiles.
//
// Start from [NewDefaultHTTPConfig], decode with confmap.Conf.Unmarshal, check with confmap.Validate.
type HTTPConfig struct {
	// ClientConfig holds endpoint, timeout, tls, headers, compression and so on.
	ClientConfig confighttp.ClientConfig `mapstructure:",squash"`
	// QueueConfig bounds what waits to be sent and how it is put together to requests.
	QueueConfig configoptional.Optional[exporterhelper.QueueBatchConfig] `mapstructure:"sending_queue"`
	// RetryConfig tells how long to wait between attempts and when to give up.
	RetryConfig configretry.BackOffConfig `mapstructure:"retry_on_failure"`
	// LogsEndpoint is the whole URL to send logs to. When empty, it is endpoint followed by /v1/logs.
	LogsEndpoint string `mapstructure:"logs_endpoint"`
	// MetricsEndpoint is the whole URL to send metrics to. When empty, it is endpoint followed by /v1/metrics.
	MetricsEndpoint string `mapstructure:"metrics_endpoint"`
	// TracesEndpoint is the whole URL to send spans to. When empty, it is endpoint followed by /v1/traces.
	TracesEndpoint string `mapstructure:"traces_endpoint"`
	// Encoding of requests: EncodingProto or EncodingJSON.
	Encoding string `mapstructure:"encoding"`
}

var (
	_ confmap.Validator   = (*GRPCConfig)(nil)
	_ confmap.Validator   = (*HTTPConfig)(nil)
	_ confmap.Unmarshaler = (*HTTPConfig)(nil)
)

// NewDefaultGRPCConfig returns the defaults of the Collector's otlp exporter, but for these:
//   - endpoint is empty; the caller must set it.
//   - timeout is 10s, so that a slow server is not sent everything again and again.
//   - retry_on_failure waits from 500ms to 2s, ±20%, and never gives up.
//   - sending_queue holds 50000 items, and has one consumer and no batch: requests arrive in
//     the order in which they were given.
//   - keepalive is on, with a timeout of 10s that makes the kernel give up a server that vanished.
//   - tls.reload_interval is 1m, not off. It need not be shorter: after a failed attempt the files are
//     looked at before the next one.
//   - balancer_name is empty, not round_robin. So the name in a plain host:port endpoint is looked up
//     for each connection. With a balancer, gRPC's own DNS resolver does that, which can need half a
//     minute to see that a name has moved, and two to see that it is there at last.
func NewDefaultGRPCConfig() *GRPCConfig {
	timeout := exporterhelper.NewDefaultTimeoutConfig()
	timeout.Timeout = requestTimeout

	client := configgrpc.NewDefaultClientConfig()
	client.BalancerName = ""
	client.Compression = configcompression.TypeGzip
	client.WriteBufferSize = writeBufferSize
	client.TLS.ReloadInterval = reloadInterval
	client.Keepalive = configoptional.Some(defaultKeepaliveConfig())

	return &GRPCConfig{
		TimeoutConfig: timeout,
		QueueConfig:   configoptional.Some(defaultQueueConfig()),
		RetryConfig:   defaultRetryConfig(),
		ClientConfig:  client,
	}
}

// NewDefaultHTTPConfig returns the defaults of the Collector's otlphttp exporter, but for these:
//   - endpoint is empty; the caller must set it.
//   - timeout and http2_read_idle_timeout are 10s.
//   - retry_on_failure, sending_queue and tls.reload_interval are those of [NewDefaultGRPCConfig].
func NewDefaultHTTPConfig() *HTTPConfig {
	client := confighttp.NewDefaultClientConfig()
	client.Timeout = requestTimeout
	client.HTTP2ReadIdleTimeout = requestTimeout
	client.Compression = configcompression.TypeGzip
	client.WriteBufferSize = writeBufferSize
	client.TLS.ReloadInterval = reloadInterval

	return &HTTPConfig{
		ClientConfig: client,
		QueueConfig:  configoptional.Some(defaultQueueConfig()),
		RetryConfig:  defaultRetryConfig(),
		Encoding:     EncodingProto,
	}
}

const (
	requestTimeout  = 10 * time.Second
	reloadInterval  = time.Minute
	writeBufferSize = 512 << 10 // as in the Collector: requests are large, answers are not
	queueSize       = 50_000    // items; log records: about 120 MB of them when full, and twice that until they are collected
)

func defaultQueueConfig() exporterhelper.QueueBatchConfig {
	queue := exporterhelper.NewDefaultQueueConfig()
	// Items: how many of them a request holds varies too much to bound memory by requests.
	queue.Sizer = exporterhelper.RequestSizerTypeItems
	queue.QueueSize = queueSize
	// With several consumers requests overtake each other, and so do batches, which are flushed by a
	// timer and by their size. What is given to an exporter is batched already.
	queue.NumConsumers = 1
	return queue
}

// defaultKeepaliveConfig has the kernel give a connection up whose data the peer has not acknowledged
// for 10 s: gRPC makes the timeout the socket's TCP_USER_TIMEOUT. Pings are kept rare, since a gRPC
// server disconnects a client that pings more than once in 5 minutes while it is busy.
func defaultKeepaliveConfig() configgrpc.KeepaliveClientConfig {
	keepalive := configgrpc.NewDefaultKeepaliveClientConfig()
	keepalive.Time = 10 * time.Minute
	keepalive.Timeout = 10 * time.Second
	return keepalive
}

func defaultRetryConfig() configretry.BackOffConfig {
	retry := configretry.NewDefaultBackOffConfig()
	retry.InitialInterval = 500 * time.Millisecond
	retry.MaxInterval = 2 * time.Second
	retry.RandomizationFactor = 0.2
	retry.MaxElapsedTime = 0
	return retry
}

// Validate checks endpoint and compression. The sections below (tls, sending_queue, retry_on_failure
// and the rest) check themselves: confmap.Validate walks the whole struct, squashed fields included,
// calls every Validate it meets and joins the errors. So call confmap.Validate(cfg), not this method;
// [NewGRPCLogs] does.
func (c *GRPCConfig) Validate() error {
	return errors.Join(c.validateEndpoint(), c.validateCompression())
}

func (c *GRPCConfig) validateEndpoint() error {
	endpoint := c.ClientConfig.Endpoint
	if endpoint == "" {
		return errors.New(`endpoint: empty, want host:port as in "localhost:4317"`)
	}
	hostport, plain := hostPort(endpoint)
	if !plain {
		return nil // a target of a gRPC resolver: configgrpc checks it
	}
	_, port, err := net.SplitHostPort(hostport)
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err != nil {
		return fmt.Errorf(`endpoint: %q, want host:port as in "localhost:4317"`, endpoint)
	}
	return nil
}

// hostPort returns endpoint without http:// or https://, and whether that is a plain host:port, not a
// target with the scheme of a gRPC resolver.
func hostPort(endpoint string) (string, bool) {
	for _, scheme := range []string{"http://", "https://"} {
		if rest, found := strings.CutPrefix(endpoint, scheme); found {
			return rest, true
		}
	}
	return endpoint, !strings.Contains(endpoint, "://")
}

func (c *GRPCConfig) validateCompression() error {
	compression := c.ClientConfig.Compression
	switch compression {
	case configcompression.TypeGzip, configcompression.TypeSnappy, configcompression.TypeZstd:
		return nil
	}
	if compression.IsCompressed() {
		return fmt.Errorf(`compression: %q, want "gzip", "snappy", "zstd" or "none"`, compression)
	}
	return nil
}

// Unmarshal decodes conf and refuses unknown keys.
//
// Left to itself confmap would not: confighttp.ClientConfig decodes itself, ignores what it does not
// know since that may be its parent's, and confmap ignores what it does not know since that may be
// ClientConfig's. So conf is decoded twice, first into a struct that does without confighttp's method.
func (c *HTTPConfig) Unmarshal(conf *confmap.Conf) error {
	var keys httpKeys
	if err := confmap.NewFromStringMap(conf.ToStringMap()).Unmarshal(&keys); err != nil {
		return err
	}
	return conf.Unmarshal(c)
}

// httpKeys are the keys of HTTPConfig.
type httpKeys struct {
	ClientConfig    plainClientConfig                                        `mapstructure:",squash"`
	QueueConfig     configoptional.Optional[exporterhelper.QueueBatchConfig] `mapstructure:"sending_queue"`
	RetryConfig     configretry.BackOffConfig                                `mapstructure:"retry_on_failure"`
	LogsEndpoint    string                                                   `mapstructure:"logs_endpoint"`
	MetricsEndpoint string                                                   `mapstructure:"metrics_endpoint"`
	TracesEndpoint  string                                                   `mapstructure:"traces_endpoint"`
	Encoding        string                                                   `mapstructure:"encoding"`
}

type plainClientConfig confighttp.ClientConfig

// config is what an exporter is made from: a GRPCConfig or an HTTPConfig.
type config interface {
	// transport leads to where the signal that HTTP has at /v1/path goes.
	transport(set exporter.Settings, path string) (transport, error)
	queue() configoptional.Optional[exporterhelper.QueueBatchConfig]
	// attempts bounds one attempt, and says how many there are.
	attempts() (exporterhelper.TimeoutConfig, configretry.BackOffConfig)
}

func (c *GRPCConfig) queue() configoptional.Optional[exporterhelper.QueueBatchConfig] {
	return c.QueueConfig
}

func (c *GRPCConfig) attempts() (exporterhelper.TimeoutConfig, configretry.BackOffConfig) {
	return c.TimeoutConfig, c.RetryConfig
}

func (c *HTTPConfig) queue() configoptional.Optional[exporterhelper.QueueBatchConfig] {
	return c.QueueConfig
}

func (c *HTTPConfig) attempts() (exporterhelper.TimeoutConfig, configretry.BackOffConfig) {
	return exporterhelper.TimeoutConfig{}, c.RetryConfig // the HTTP client has its own timeout
}

// Validate checks the endpoints and encoding. The sections below check themselves; see
// [GRPCConfig.Validate]. That there is an endpoint for a signal is checked where an exporter of that
// signal is made.
func (c *HTTPConfig) Validate() error {
	endpoints := c.endpoints()
	endpoints["endpoint"] = c.ClientConfig.Endpoint
	var errs []error
	for _, key := range slices.Sorted(maps.Keys(endpoints)) {
		errs = append(errs, validateURL(key, endpoints[key]))
	}
	if strings.Join(slices.Collect(maps.Values(endpoints)), "") == "" {
		errs = append(errs, errNoEndpoint)
	}
	if c.Encoding != EncodingProto && c.Encoding != EncodingJSON {
		errs = append(errs, fmt.Errorf("encoding: %q, want %q or %q", c.Encoding, EncodingProto, EncodingJSON))
	}
	return errors.Join(errs...)
}

var errNoEndpoint = errors.New(`endpoint: empty, want a URL as in "http://localhost:4318"`)

// endpoints are the whole URLs for single signals, by their key.
func (c *HTTPConfig) endpoints() map[string]string {
	return map[string]string{
		"logs_endpoint": c.LogsEndpoint, "metrics_endpoint": c.MetricsEndpoint, "traces_endpoint": c.TracesEndpoint,
	}
}

func validateURL(key, value string) error {
	if value == "" {
		return nil
	}
	u, err := url.Parse(value)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
		return fmt.Errorf(`%s: %q, want a URL that begins with http:// or https:// and names a host`, key, value)
	}
	return nil
}

// url is where to send a signal that goes to /v1/path.
func (c *HTTPConfig) url(path string) (*url.URL, error) {
	if whole := c.endpoints()[path+"_endpoint"]; whole != "" {
		return url.Parse(whole)
	}
	if c.ClientConfig.Endpoint == "" {
		return nil, errNoEndpoint
	}
	base, err := url.Parse(c.ClientConfig.Endpoint)
	if err != nil {
		return nil, err
	}
	if base.Path == "" {
		base.Path = "/" // else JoinPath makes a relative path
	}
	return base.JoinPath("v1", path), nil
}
