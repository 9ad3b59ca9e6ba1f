package otlp

import (
	"context"
	"strings"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/config/configgrpc"
	"go.opentelemetry.io/collector/config/configtls"
	"go.opentelemetry.io/collector/consumer/consumererror"
	"go.opentelemetry.io/collector/exporter"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// connectParams keeps a server that is back from being noticed late: gRPC's own backoff grows to 120 s.
var connectParams = grpc.ConnectParams{
	Backoff:           backoff.Config{BaseDelay: 500 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 2 * time.Second},
	MinConnectTimeout: 5 * time.Second,
}

type grpcTransport struct {
	config    configgrpc.ClientConfig
	telemetry component.TelemetrySettings
	userAgent string
	endpoint  string
}

func (c *GRPCConfig) transport(set exporter.Settings, _ string) (transport, error) {
	return &grpcTransport{
		config:    dialConfig(c.ClientConfig),
		telemetry: set.TelemetrySettings,
		userAgent: userAgent(set.BuildInfo),
		endpoint:  c.ClientConfig.Endpoint,
	}, nil
}

// dialConfig has a plain host:port looked up by each connection that is made. Left to itself, gRPC
// looks a name up at most every 30 s, and after up to 120 s when it was not there the last time.
func dialConfig(cfg configgrpc.ClientConfig) configgrpc.ClientConfig {
	hostport, plain := hostPort(cfg.Endpoint)
	if !plain || cfg.BalancerName != "" {
		return cfg
	}
	if strings.HasPrefix(cfg.Endpoint, "https://") {
		cfg.TLS.Insecure = false // what https:// means, lost with the prefix
	}
	cfg.Endpoint = "passthrough:///" + hostport
	return cfg
}

func (t *grpcTransport) String() string { return t.endpoint }

func (t *grpcTransport) tls() configtls.ClientConfig { return t.config.TLS }

func (t *grpcTransport) connect(ctx context.Context, host component.Host) (connection, error) {
	conn, err := t.config.ToClientConn(ctx, host.GetExtensions(), t.telemetry,
		configgrpc.WithGrpcDialOption(grpc.WithUserAgent(t.userAgent)),
		configgrpc.WithGrpcDialOption(grpc.WithConnectParams(connectParams)))
	if err != nil {
		return nil, err
	}
	return grpcConnection{conn}, nil
}

type grpcConnection struct{ *grpc.ClientConn }

func (c grpcConnection) export(ctx context.Context, request request) (answer, error) {
	response, err := request.call(ctx, c.ClientConn)
	if err != nil {
		return answer{}, statusError(status.Convert(err))
	}
	return response.answer(), nil
}

func (c grpcConnection) close() error { return c.Close() }

// statusError tells errors to retry from permanent ones. Nothing of the server's but code, delay and
// printable text is kept.
func statusError(s *status.Status) error {
	err := status.Error(s.Code(), printable(s.Message()))
	delay, throttles := retryDelay(s)
	switch s.Code() {
	case codes.Canceled, codes.DeadlineExceeded, codes.Aborted, codes.OutOfRange, codes.Unavailable, codes.DataLoss,
		codes.Unauthenticated, codes.PermissionDenied: // an expired token must lose nothing
		return throttled(err, delay)
	case codes.ResourceExhausted:
		if throttles {
			return throttled(err, delay)
		}
	}
	return consumererror.NewPermanent(err)
}

// retryDelay returns the delay of the status's RetryInfo, and whether there is one.
func retryDelay(s *status.Status) (time.Duration, bool) {
	for _, detail := range s.Details() {
		if info, ok := detail.(*errdetails.RetryInfo); ok {
			return info.GetRetryDelay().AsDuration(), true
		}
	}
	return 0, false
}
