package otlp

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang/snappy"
	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/config/configretry"
	"go.opentelemetry.io/collector/exporter"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"
	metricnoop "go.opentelemetry.io/otel/metric/noop"
	tracenoop "go.opentelemetry.io/otel/trace/noop"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
)

func TestMain(m *testing.M) {
	net.DefaultResolver = resolver
	goleak.VerifyTestMain(m)
}

// arrival is one request as the server saw it.
type arrival struct {
	header http.Header // gRPC metadata or HTTP header
	bodies []string    // of the items
	at     time.Time
	taken  bool
}

// inbox collects what arrives.
type inbox struct {
	mu       sync.Mutex
	arrivals []arrival
}

// add returns how many requests came before.
func (in *inbox) add(header http.Header, bodies []string) int {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.arrivals = append(in.arrivals, arrival{header: header, bodies: bodies, at: time.Now()})
	return len(in.arrivals) - 1
}

func (in *inbox) take(call int) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.arrivals[call].taken = true
}

func (in *inbox) all() []arrival {
	in.mu.Lock()
	defer in.mu.Unlock()
	return slices.Clone(in.arrivals)
}

// taken returns the bodies of all items in requests the server took, sorted.
func (in *inbox) taken() []string {
	var all []string
	for _, a := range in.all() {
		if a.taken {
			all = append(all, a.bodies...)
		}
	}
	slices.Sort(all)
	return all
}

// wait waits until the server took the items with these bodies, each once.
func (in *inbox) wait(t *testing.T, want ...string) {
	t.Helper()
	slices.Sort(want)
	eventually(t, func() bool { return len(in.taken()) >= len(want) })
	if diff := cmp.Diff(want, in.taken()); diff != "" {
		t.Fatalf("items taken (-want +got):\n%s", diff)
	}
}

// waitCalls waits for the n-th request, taken or not.
func (in *inbox) waitCalls(t *testing.T, n int) {
	t.Helper()
	eventually(t, func() bool { return len(in.all()) >= n })
}

func eventually(t *testing.T, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !condition(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("condition not met in 30s")
		}
	}
}

// grpcServer is an OTLP server. answer decides on the call-th request, counted from 0; nil takes all.
type grpcServer struct {
	*inbox
	addr    string
	answer  grpcAnswer
	options []grpc.ServerOption
	wrap    func(net.Listener) net.Listener // nil: leave it as it is
	stop    func()
}

type grpcAnswer = func(call int, partial *partial) error

// partial is the partial success that a server answers with.
type partial struct {
	rejected int64
	message  string
}

func serveGRPC(t *testing.T, answer grpcAnswer, options ...grpc.ServerOption) *grpcServer {
	t.Helper()
	return serveGRPCAt(t, "127.0.0.1:0", answer, options...)
}

func serveGRPCAt(t *testing.T, addr string, answer grpcAnswer, options ...grpc.ServerOption) *grpcServer {
	t.Helper()
	s := &grpcServer{inbox: &inbox{}, addr: addr, answer: answer, options: options}
	s.serve(t)
	return s
}

// serve begins to serve, also after stop.
func (s *grpcServer) serve(t *testing.T) {
	t.Helper()
	listener, err := net.Listen("tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	s.addr = listener.Addr().String()
	if s.wrap != nil {
		listener = s.wrap(listener)
	}
	server := grpc.NewServer(s.options...)
	plogotlp.RegisterGRPCServer(server, &logsServer{grpcServer: s})
	pmetricotlp.RegisterGRPCServer(server, &metricsServer{grpcServer: s})
	ptraceotlp.RegisterGRPCServer(server, &tracesServer{grpcServer: s})
	var served sync.WaitGroup
	served.Go(func() { _ = server.Serve(listener) })
	s.stop = func() {
		server.Stop()
		served.Wait()
	}
	t.Cleanup(s.stop)
}

func (s *grpcServer) receive(ctx context.Context, bodies []string) (partial, error) {
	header := make(http.Header)
	md, _ := metadata.FromIncomingContext(ctx)
	for key, values := range md {
		header[http.CanonicalHeaderKey(key)] = values
	}
	call := s.add(header, bodies)
	var p partial
	if s.answer != nil {
		if err := s.answer(call, &p); err != nil {
			return p, err
		}
	}
	s.take(call)
	return p, nil
}

type logsServer struct {
	plogotlp.UnimplementedGRPCServer
	*grpcServer
}

func (s logsServer) Export(ctx context.Context, request plogotlp.ExportRequest) (plogotlp.ExportResponse, error) {
	p, err := s.receive(ctx, logBodies(request.Logs()))
	response := plogotlp.NewExportResponse()
	response.PartialSuccess().SetRejectedLogRecords(p.rejected)
	response.PartialSuccess().SetErrorMessage(p.message)
	return response, err
}

type metricsServer struct {
	pmetricotlp.UnimplementedGRPCServer
	*grpcServer
}

func (s metricsServer) Export(ctx context.Context, request pmetricotlp.ExportRequest) (pmetricotlp.ExportResponse, error) {
	p, err := s.receive(ctx, pointBodies(request.Metrics()))
	response := pmetricotlp.NewExportResponse()
	response.PartialSuccess().SetRejectedDataPoints(p.rejected)
	response.PartialSuccess().SetErrorMessage(p.message)
	return response, err
}

type tracesServer struct {
	ptraceotlp.UnimplementedGRPCServer
	*grpcServer
}

func (s tracesServer) Export(ctx context.Context, request ptraceotlp.ExportRequest) (ptraceotlp.ExportResponse, error) {
	p, err := s.receive(ctx, spanBodies(request.Traces()))
	response := ptraceotlp.NewExportResponse()
	response.PartialSuccess().SetRejectedSpans(p.rejected)
	response.PartialSuccess().SetErrorMessage(p.message)
	return response, err
}

// freeAddr returns an address that refuses connections until the test listens there. It is one that
// connections do not start from, so that none of them takes the port meanwhile.
func freeAddr(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.3:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

// httpServer is an OTLP server. answer decides on the call-th request, counted from 0, by answering
// it and returning false; nil takes all.
type httpServer struct {
	*inbox
	*httptest.Server
	answer httpAnswer
}

type httpAnswer = func(call int, w http.ResponseWriter) bool

func serveHTTP(t *testing.T, answer httpAnswer) *httpServer {
	t.Helper()
	s := newHTTPServer(answer)
	s.Start()
	t.Cleanup(s.Close)
	return s
}

func newHTTPServer(answer httpAnswer) *httpServer {
	s := &httpServer{inbox: &inbox{}, answer: answer}
	s.Server = httptest.NewUnstartedServer(s)
	return s
}

// serveAt serves, also after Close, at the address that addr is.
func (s *httpServer) serveAt(t *testing.T, addr string) {
	t.Helper()
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	s.Server = &httptest.Server{Listener: listener, Config: &http.Server{Handler: s}}
	s.Start()
	t.Cleanup(s.Close)
}

func (s *httpServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	bodies, err := readRequest(r)
	if err != nil {
		code := http.StatusBadRequest
		if _, large := errors.AsType[*http.MaxBytesError](err); large {
			code = http.StatusRequestEntityTooLarge
		}
		http.Error(w, err.Error(), code)
		return
	}
	header := r.Header.Clone()
	header.Set("Path", r.URL.String())
	call := s.add(header, bodies)
	if s.answer != nil && !s.answer(call, w) {
		return
	}
	s.take(call)
}

// readRequest returns the bodies of the items in a request of at most maxRequestSize.
func readRequest(r *http.Request) ([]string, error) {
	body, err := decompressed(r)
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(http.MaxBytesReader(nil, body, maxRequestSize))
	if err != nil {
		return nil, err
	}
	unmarshal := func(proto, json func([]byte) error) error {
		if r.Header.Get("Content-Type") == contentJSON {
			return json(data)
		}
		return proto(data)
	}
	switch path.Base(r.URL.Path) {
	case "metrics":
		request := pmetricotlp.NewExportRequest()
		err := unmarshal(request.UnmarshalProto, request.UnmarshalJSON)
		return pointBodies(request.Metrics()), err
	case "traces":
		request := ptraceotlp.NewExportRequest()
		err := unmarshal(request.UnmarshalProto, request.UnmarshalJSON)
		return spanBodies(request.Traces()), err
	default:
		request := plogotlp.NewExportRequest()
		err := unmarshal(request.UnmarshalProto, request.UnmarshalJSON)
		return logBodies(request.Logs()), err
	}
}

func decompressed(r *http.Request) (io.ReadCloser, error) {
	switch encoding := r.Header.Get("Content-Encoding"); encoding {
	case "":
		return r.Body, nil
	case "gzip":
		return gzip.NewReader(r.Body)
	case "snappy": // a single block
		data, err := io.ReadAll(r.Body)
		if err != nil {
			return nil, err
		}
		decoded, err := snappy.Decode(nil, data)
		return io.NopCloser(bytes.NewReader(decoded)), err
	case "zstd":
		decoder, err := zstd.NewReader(r.Body)
		if err != nil {
			return nil, err
		}
		return decoder.IOReadCloser(), nil
	default:
		return nil, fmt.Errorf("content encoding %q", encoding)
	}
}

// logsOf returns one record for each body, all of one resource.
func logsOf(bodies ...string) plog.Logs {
	ld := plog.NewLogs()
	rl := ld.ResourceLogs().AppendEmpty()
	rl.Resource().Attributes().PutStr("service.name", "test")
	records := rl.ScopeLogs().AppendEmpty().LogRecords()
	for _, body := range bodies {
		records.AppendEmpty().Body().SetStr(body)
	}
	return ld
}

func logBodies(ld plog.Logs) []string {
	var all []string
	for _, rl := range ld.ResourceLogs().All() {
		for _, sl := range rl.ScopeLogs().All() {
			for _, record := range sl.LogRecords().All() {
				all = append(all, record.Body().Str())
			}
		}
	}
	return all
}

// metricsOf returns one data point for each body, all of one metric.
func metricsOf(bodies ...string) pmetric.Metrics {
	md := pmetric.NewMetrics()
	metric := md.ResourceMetrics().AppendEmpty().ScopeMetrics().AppendEmpty().Metrics().AppendEmpty()
	metric.SetName("test")
	points := metric.SetEmptyGauge().DataPoints()
	for _, body := range bodies {
		points.AppendEmpty().Attributes().PutStr("body", body)
	}
	return md
}

func pointBodies(md pmetric.Metrics) []string {
	var all []string
	for _, rm := range md.ResourceMetrics().All() {
		for _, sm := range rm.ScopeMetrics().All() {
			for _, metric := range sm.Metrics().All() {
				for _, point := range metric.Gauge().DataPoints().All() {
					body, _ := point.Attributes().Get("body")
					all = append(all, body.Str())
				}
			}
		}
	}
	return all
}

// tracesOf returns one span for each body.
func tracesOf(bodies ...string) ptrace.Traces {
	td := ptrace.NewTraces()
	spans := td.ResourceSpans().AppendEmpty().ScopeSpans().AppendEmpty().Spans()
	for _, body := range bodies {
		spans.AppendEmpty().SetName(body)
	}
	return td
}

func spanBodies(td ptrace.Traces) []string {
	var all []string
	for _, rs := range td.ResourceSpans().All() {
		for _, ss := range rs.ScopeSpans().All() {
			for _, span := range ss.Spans().All() {
				all = append(all, span.Name())
			}
		}
	}
	return all
}

// subject is an exporter of any signal.
type subject struct {
	component.Component
	Stats func() Stats
	offer func(ctx context.Context, bodies ...string) error
}

// maker makes the exporter of one signal over one transport. The one it is not for is nil.
type maker struct {
	name string
	grpc func(t *testing.T, set exporter.Settings, cfg *GRPCConfig) subject
	http func(t *testing.T, set exporter.Settings, cfg *HTTPConfig) subject
}

var makers = []maker{
	{name: "gRPC logs", grpc: making(NewGRPCLogs, (*Logs).ConsumeLogs, logsOf)},
	{name: "gRPC metrics", grpc: making(NewGRPCMetrics, (*Metrics).ConsumeMetrics, metricsOf)},
	{name: "gRPC traces", grpc: making(NewGRPCTraces, (*Traces).ConsumeTraces, tracesOf)},
	{name: "HTTP logs", http: making(NewHTTPLogs, (*Logs).ConsumeLogs, logsOf)},
	{name: "HTTP metrics", http: making(NewHTTPMetrics, (*Metrics).ConsumeMetrics, metricsOf)},
	{name: "HTTP traces", http: making(NewHTTPTraces, (*Traces).ConsumeTraces, tracesOf)},
}

// script is what a server answers, over gRPC or HTTP. One that lacks its transport's part takes all.
type script struct {
	grpc grpcAnswer
	http httpAnswer
}

// deployment is an exporter and the server that it sends to.
type deployment struct {
	subject
	*inbox
	server string // as the exporter calls it
}

// tune changes what both configurations have.
type tune = func(queue *queueConfig, retry *retryConfig)

// deploy serves and makes an exporter, which is not started yet.
func (m maker) deploy(t *testing.T, set exporter.Settings, answers script, tunes ...tune) deployment {
	t.Helper()
	if m.grpc != nil {
		s := serveGRPC(t, answers.grpc)
		cfg := grpcConfig(s.addr)
		for _, tune := range tunes {
			tune(&cfg.QueueConfig, &cfg.RetryConfig)
		}
		return deployment{m.grpc(t, set, cfg), s.inbox, s.addr}
	}
	s := serveHTTP(t, answers.http)
	cfg := httpConfig(s.URL)
	for _, tune := range tunes {
		tune(&cfg.QueueConfig, &cfg.RetryConfig)
	}
	_, signal, _ := strings.Cut(m.name, " ")
	return deployment{m.http(t, set, cfg), s.inbox, s.URL + "/v1/" + signal}
}

// run is deploy with the exporter started.
func (m maker) run(t *testing.T, answers script, tunes ...tune) deployment {
	t.Helper()
	d := m.deploy(t, settings(), answers, tunes...)
	start(t, d.subject)
	return d
}

// eachTransport has one signal for each transport, where the signal makes no difference.
var eachTransport = []maker{makers[2], makers[4]}

type statistician interface {
	component.Component
	Stats() Stats
}

func making[E statistician, C, T any](
	create func(context.Context, exporter.Settings, C) (E, error), consume func(E, context.Context, T) error, of func(...string) T,
) func(*testing.T, exporter.Settings, C) subject {
	return func(t *testing.T, set exporter.Settings, cfg C) subject {
		t.Helper()
		e, err := create(t.Context(), set, cfg)
		if err != nil {
			t.Fatal(err)
		}
		return subject{e, e.Stats, func(ctx context.Context, bodies ...string) error { return consume(e, ctx, of(bodies...)) }}
	}
}

// host has the extensions it is made of.
type host map[component.ID]component.Component

func (h host) GetExtensions() map[component.ID]component.Component { return h }

func settings() exporter.Settings {
	return exporter.Settings{
		ID:        component.MustNewID("otlp"),
		BuildInfo: component.BuildInfo{Command: "connspan", Version: "1.2.3"},
		TelemetrySettings: component.TelemetrySettings{
			Logger:         zap.NewNop(),
			TracerProvider: tracenoop.NewTracerProvider(),
			MeterProvider:  metricnoop.NewMeterProvider(),
		},
	}
}

func observed() (exporter.Settings, *observer.ObservedLogs) {
	core, logs := observer.New(zapcore.DebugLevel)
	set := settings()
	set.Logger = zap.New(core)
	return set, logs
}

// hurry makes retries quick.
func hurry(retry *configretry.BackOffConfig) {
	retry.InitialInterval = 5 * time.Millisecond
	retry.MaxInterval = 20 * time.Millisecond
}

func grpcConfig(endpoint string) *GRPCConfig {
	cfg := NewDefaultGRPCConfig()
	cfg.ClientConfig.Endpoint = endpoint
	cfg.ClientConfig.TLS.Insecure = true
	hurry(&cfg.RetryConfig)
	return cfg
}

func httpConfig(endpoint string) *HTTPConfig {
	cfg := NewDefaultHTTPConfig()
	cfg.ClientConfig.Endpoint = endpoint
	hurry(&cfg.RetryConfig)
	return cfg
}

func mustGRPC(t *testing.T, set exporter.Settings, cfg *GRPCConfig) *Logs {
	t.Helper()
	l, err := NewGRPCLogs(t.Context(), set, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func mustHTTP(t *testing.T, set exporter.Settings, cfg *HTTPConfig) *Logs {
	t.Helper()
	l, err := NewHTTPLogs(t.Context(), set, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// startGRPC returns a running exporter, which the end of the test shuts down.
func startGRPC(t *testing.T, cfg *GRPCConfig) *Logs {
	t.Helper()
	return start(t, mustGRPC(t, settings(), cfg))
}

// startHTTP returns a running exporter, which the end of the test shuts down.
func startHTTP(t *testing.T, cfg *HTTPConfig) *Logs {
	t.Helper()
	return start(t, mustHTTP(t, settings(), cfg))
}

func start[E component.Component](t *testing.T, e E) E {
	t.Helper()
	if err := e.Start(t.Context(), host{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), time.Second)
		defer cancel()
		_ = e.Shutdown(ctx)
	})
	return e
}

func consumeLogs(t *testing.T, l *Logs, bodies ...string) {
	t.Helper()
	if err := l.ConsumeLogs(t.Context(), logsOf(bodies...)); err != nil {
		t.Fatal(err)
	}
}

func mustOffer(t *testing.T, s subject, bodies ...string) {
	t.Helper()
	if err := s.offer(t.Context(), bodies...); err != nil {
		t.Fatal(err)
	}
}

// wantStats waits until nothing is queued and compares.
func wantStats(t *testing.T, stats func() Stats, want Stats) {
	t.Helper()
	// The exporter counts after the server has answered.
	eventually(t, func() bool { return stats().Queued == want.Queued })
	if diff := cmp.Diff(want, stats()); diff != "" {
		t.Errorf("stats (-want +got):\n%s", diff)
	}
}

// numbered returns n different bodies.
func numbered(n int) []string {
	all := make([]string, n)
	for i := range all {
		all[i] = fmt.Sprintf("record %05d", i)
	}
	return all
}

// large returns 60 different bodies, 6 MB in all: they need two requests.
func large() []string {
	all := numbered(60)
	for i := range all {
		all[i] += strings.Repeat(".", 100_000)
	}
	return all
}
