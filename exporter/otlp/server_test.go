package otlp

import (
	"compress/gzip"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/config/configretry"
	"go.opentelemetry.io/collector/exporter"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
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
	bodies []string    // of the log records
	at     time.Time
	taken  bool
}

// inbox collects what arrives.
type inbox struct {
	mu       sync.Mutex
	arrivals []arrival
}

// add returns how many requests came before.
func (in *inbox) add(header http.Header, ld plog.Logs) int {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.arrivals = append(in.arrivals, arrival{header: header, bodies: bodies(ld), at: time.Now()})
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

// taken returns the bodies of all records in requests the server took, sorted.
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

// wait waits until the server took the records with these bodies, each once.
func (in *inbox) wait(t *testing.T, want ...string) {
	t.Helper()
	slices.Sort(want)
	eventually(t, func() bool { return len(in.taken()) >= len(want) })
	if diff := cmp.Diff(want, in.taken()); diff != "" {
		t.Fatalf("records taken (-want +got):\n%s", diff)
	}
}

// waitCalls waits for the n-th request, taken or not.
func (in *inbox) waitCalls(t *testing.T, n int) {
	t.Helper()
	eventually(t, func() bool { return len(in.all()) >= n })
}

func eventually(t *testing.T, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !condition(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("condition not met in 10s")
		}
	}
}

// grpcServer is an OTLP server. answer decides on the call-th request, counted from 0; nil takes all.
type grpcServer struct {
	plogotlp.UnimplementedGRPCServer
	inbox
	addr   string
	stop   func()
	answer grpcAnswer
}

func (s *grpcServer) Export(ctx context.Context, request plogotlp.ExportRequest) (plogotlp.ExportResponse, error) {
	header := make(http.Header)
	md, _ := metadata.FromIncomingContext(ctx)
	for key, values := range md {
		header[http.CanonicalHeaderKey(key)] = values
	}
	call := s.add(header, request.Logs())
	response := plogotlp.NewExportResponse()
	if s.answer != nil {
		if err := s.answer(call, response); err != nil {
			return response, err
		}
	}
	s.take(call)
	return response, nil
}

type grpcAnswer = func(call int, response plogotlp.ExportResponse) error

func serveGRPC(t *testing.T, answer grpcAnswer, options ...grpc.ServerOption) *grpcServer {
	t.Helper()
	return serveGRPCAt(t, "127.0.0.1:0", answer, options...)
}

func serveGRPCAt(t *testing.T, addr string, answer grpcAnswer, options ...grpc.ServerOption) *grpcServer {
	t.Helper()
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	s := &grpcServer{addr: listener.Addr().String(), answer: answer}
	server := grpc.NewServer(options...)
	plogotlp.RegisterGRPCServer(server, s)
	var served sync.WaitGroup
	served.Go(func() { _ = server.Serve(listener) })
	s.stop = func() {
		server.Stop()
		served.Wait()
	}
	t.Cleanup(s.stop)
	return s
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
	inbox
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
	s := &httpServer{answer: answer}
	s.Server = httptest.NewUnstartedServer(http.HandlerFunc(s.export))
	return s
}

func (s *httpServer) export(w http.ResponseWriter, r *http.Request) {
	ld, err := readRequest(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	header := r.Header.Clone()
	header.Set("Path", r.URL.String())
	call := s.add(header, ld)
	if s.answer != nil && !s.answer(call, w) {
		return
	}
	s.take(call)
}

func readRequest(r *http.Request) (plog.Logs, error) {
	var body io.Reader = r.Body
	if r.Header.Get("Content-Encoding") == "gzip" {
		var err error
		if body, err = gzip.NewReader(r.Body); err != nil {
			return plog.Logs{}, err
		}
	}
	data, err := io.ReadAll(body)
	if err != nil {
		return plog.Logs{}, err
	}
	request := plogotlp.NewExportRequest()
	if r.Header.Get("Content-Type") == contentJSON {
		err = request.UnmarshalJSON(data)
	} else {
		err = request.UnmarshalProto(data)
	}
	return request.Logs(), err
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

func bodies(ld plog.Logs) []string {
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

func start(t *testing.T, l *Logs) *Logs {
	t.Helper()
	if err := l.Start(t.Context(), host{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), time.Second)
		defer cancel()
		_ = l.Shutdown(ctx)
	})
	return l
}

func consume(t *testing.T, l *Logs, bodies ...string) {
	t.Helper()
	if err := l.ConsumeLogs(t.Context(), logsOf(bodies...)); err != nil {
		t.Fatal(err)
	}
}

func wantStats(t *testing.T, l *Logs, want Stats) {
	t.Helper()
	// The exporter counts after the server has answered.
	eventually(t, func() bool {
		s := l.Stats()
		return s.Offered-s.Refused == s.Sent+s.Rejected+s.Dropped
	})
	if diff := cmp.Diff(want, l.Stats()); diff != "" {
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

// authority is a CA made for one test.
type authority struct {
	file string // its certificate, PEM
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	ca := &authority{file: filepath.Join(t.TempDir(), "ca.pem"), key: newKey(t)}
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: "test CA"},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(time.Hour),
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &ca.key.PublicKey, ca.key)
	if err != nil {
		t.Fatal(err)
	}
	if ca.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	encoded := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	if err := os.WriteFile(ca.file, encoded, 0o600); err != nil {
		t.Fatal(err)
	}
	return ca
}

// serverConfig is TLS for 127.0.0.1.
func (ca *authority) serverConfig(t *testing.T) *tls.Config {
	t.Helper()
	key := newKey(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2),
		Subject:      pkix.Name{CommonName: "test server"},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(time.Hour),
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.cert, &key.PublicKey, ca.key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}
