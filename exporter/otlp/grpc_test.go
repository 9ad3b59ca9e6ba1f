package otlp

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/collector/config/configcompression"
	"go.opentelemetry.io/collector/config/configgrpc"
	"go.opentelemetry.io/collector/config/configopaque"
	"go.opentelemetry.io/collector/consumer/consumererror"
	"golang.org/x/net/dns/dnsmessage"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"
)

func TestGRPCDelivers(t *testing.T) {
	s := serveGRPC(t, nil)
	cfg := grpcConfig(s.addr)
	cfg.ClientConfig.Headers.Set("authorization", configopaque.String("Bearer token"))
	l := startGRPC(t, cfg)

	consumeLogs(t, l, "a", "b")
	s.wait(t, "a", "b")
	wantStats(t, l.Stats, Stats{Offered: 2, Sent: 2})

	header := s.all()[0].header
	if got := header.Get("Authorization"); got != "Bearer token" {
		t.Errorf("authorization: got %q", got)
	}
	if got := header.Get("User-Agent"); !strings.HasPrefix(got, "connspan/1.2.3 ") {
		t.Errorf("user-agent: got %q", got)
	}
}

// compressions notes how requests to a server are compressed.
type compressions struct {
	mu   sync.Mutex
	seen []string
}

func (c *compressions) HandleRPC(_ context.Context, s stats.RPCStats) {
	if header, ok := s.(*stats.InHeader); ok {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.seen = append(c.seen, header.Compression)
	}
}

func (c *compressions) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context { return ctx }

func (c *compressions) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }
func (c *compressions) HandleConn(context.Context, stats.ConnStats)                       {}

func TestGRPCCompression(t *testing.T) {
	for compression, want := range map[configcompression.Type]string{
		NewDefaultGRPCConfig().ClientConfig.Compression: "gzip",
		configcompression.TypeZstd:                      "zstd",
		configcompression.TypeSnappy:                    "snappy",
		"none":                                          "",
	} {
		t.Run(string(compression), func(t *testing.T) {
			var got compressions
			s := serveGRPC(t, nil, grpc.StatsHandler(&got))
			cfg := grpcConfig(s.addr)
			cfg.ClientConfig.Compression = compression
			l := startGRPC(t, cfg)
			consumeLogs(t, l, "a")
			s.wait(t, "a")

			got.mu.Lock()
			defer got.mu.Unlock()
			if diff := cmp.Diff([]string{want}, got.seen); diff != "" {
				t.Errorf("compression of requests (-want +got):\n%s", diff)
			}
		})
	}
}

func TestGRPCDrops(t *testing.T) {
	for _, code := range []codes.Code{
		codes.InvalidArgument, codes.NotFound, codes.AlreadyExists, codes.ResourceExhausted, codes.FailedPrecondition,
		codes.Unimplemented, codes.Internal, codes.Unknown,
	} {
		t.Run(code.String(), func(t *testing.T) {
			s := serveGRPC(t, func(call int, _ *partial) error {
				if call == 0 {
					return status.Error(code, "\x1b[31mno\n")
				}
				return nil
			})
			set, logs := observed()
			l := start(t, mustGRPC(t, set, grpcConfig(s.addr)))
			consumeLogs(t, l, "a", "b")
			s.waitCalls(t, 1)
			wantStats(t, l.Stats, Stats{Offered: 2, Dropped: 2})
			consumeLogs(t, l, "c")
			s.wait(t, "c")
			wantStats(t, l.Stats, Stats{Offered: 3, Sent: 1, Dropped: 2})

			message := "Exporting failed. Dropping data."
			eventually(t, func() bool { return logs.FilterMessage(message).Len() == 1 })
			want := "not retryable error: exporting 2 log records to " + s.addr +
				": Permanent error: rpc error: code = " + code.String() + " desc =  [31mno "
			if got := logs.FilterMessage(message).All()[0].ContextMap()["error"]; got != want {
				t.Errorf("error:\n got %q\nwant %q", got, want)
			}
		})
	}
}

func TestGRPCThrottleIsBounded(t *testing.T) {
	err := statusError(status.Convert(withRetryInfo(codes.Unavailable, 24*time.Hour)))
	if want := "Throttle (5m0s), error: rpc error: code = Unavailable desc = slow down"; err.Error() != want {
		t.Errorf("got %q, want %q", err, want)
	}
	if consumererror.IsPermanent(err) {
		t.Error("permanent")
	}
}

func TestGRPCServerComesLater(t *testing.T) {
	addr := freeAddr(t)
	set, logs := observed()
	l := start(t, mustGRPC(t, set, grpcConfig(addr)))
	consumeLogs(t, l, "a")
	eventually(t, func() bool { return logs.FilterMessageSnippet("Will retry").Len() > 0 })

	s := serveGRPCAt(t, addr, nil)
	s.wait(t, "a")
}

// TestRecoveryTime holds the defaults to the promise that a server is used within 5 s of its return:
// the worst case is that gRPC has just begun to wait for its next connection when a request begins to
// wait for its next attempt, which finds the connection still missing.
func TestRecoveryTime(t *testing.T) {
	longest := func(d time.Duration, jitter float64) time.Duration {
		return time.Duration(float64(d) * (1 + jitter))
	}
	retry := NewDefaultGRPCConfig().RetryConfig
	worst := longest(retry.MaxInterval, retry.RandomizationFactor) +
		longest(connectParams.Backoff.MaxDelay, connectParams.Backoff.Jitter)
	if worst > 5*time.Second {
		t.Errorf("a server that is back may go unused for %v", worst)
	}
	if retry.MaxElapsedTime != 0 {
		t.Errorf("retries end after %v", retry.MaxElapsedTime)
	}
}

// TestGRPCReconnects: with gRPC's own backoff a twentieth attempt to connect would be minutes away.
func TestGRPCReconnects(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var attempts atomic.Int64
	var served sync.WaitGroup
	served.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			attempts.Add(1)
			conn.Close()
		}
	})
	t.Cleanup(func() {
		listener.Close()
		served.Wait()
	})

	params := connectParams
	t.Cleanup(func() { connectParams = params })
	connectParams.Backoff.BaseDelay, connectParams.Backoff.MaxDelay = time.Millisecond, time.Millisecond
	consumeLogs(t, startGRPC(t, grpcConfig(listener.Addr().String())), "a")
	eventually(t, func() bool { return attempts.Load() >= 20 })
}

func TestDialConfig(t *testing.T) {
	for _, tt := range []struct {
		endpoint, balancer string
		want               string
		wantInsecure       bool
	}{
		{endpoint: "localhost:4317", want: "passthrough:///localhost:4317", wantInsecure: true},
		{endpoint: "http://localhost:4317", want: "passthrough:///localhost:4317", wantInsecure: true},
		{endpoint: "https://localhost:4317", want: "passthrough:///localhost:4317"},
		{endpoint: "dns:///localhost:4317", want: "dns:///localhost:4317", wantInsecure: true},
		{endpoint: "unix:///run/otlp.sock", want: "unix:///run/otlp.sock", wantInsecure: true},
		{endpoint: "localhost:4317", balancer: "round_robin", want: "localhost:4317", wantInsecure: true},
	} {
		t.Run(tt.endpoint+" "+tt.balancer, func(t *testing.T) {
			cfg := configgrpc.ClientConfig{Endpoint: tt.endpoint, BalancerName: tt.balancer}
			cfg.TLS.Insecure = true
			got := dialConfig(cfg)
			if got.Endpoint != tt.want || got.TLS.Insecure != tt.wantInsecure {
				t.Errorf("got %q, insecure %v, want %q, insecure %v", got.Endpoint, got.TLS.Insecure, tt.want, tt.wantInsecure)
			}
		})
	}
}

// TestGRPCServerMoves has the name of the server unknown first and known later, and then lead to
// another address, as it does in Kubernetes.
func TestGRPCServerMoves(t *testing.T) {
	name := serveDNS(t)
	first := serveGRPC(t, nil)
	_, port, err := net.SplitHostPort(first.addr)
	if err != nil {
		t.Fatal(err)
	}
	set, logs := observed()
	l := start(t, mustGRPC(t, set, grpcConfig("collector.test:"+port)))
	consumeLogs(t, l, "a")
	eventually(t, func() bool { return logs.FilterMessageSnippet("Will retry").Len() > 0 })

	name.point("127.0.0.1")
	first.wait(t, "a")
	wantStats(t, l.Stats, Stats{Offered: 1, Sent: 1}) // not before the answer has arrived
	first.stop()

	second := serveGRPCAt(t, "127.0.0.2:"+port, nil)
	name.point("127.0.0.2")
	consumeLogs(t, l, "b")
	second.wait(t, "b")
}

// nameServer is the DNS server that this process asks, "host:port"; nil has it ask nobody.
var nameServer atomic.Pointer[string]

// resolver replaces net.DefaultResolver before the first test runs: goroutines of earlier tests may
// still look at that.
var resolver = &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
	addr := nameServer.Load()
	if addr == nil {
		return nil, errors.New("no name server")
	}
	var dialer net.Dialer
	return dialer.DialContext(ctx, "udp", *addr)
}}

// dnsName is a name that this process's resolver knows, or not, whatever the name.
type dnsName struct {
	mu sync.Mutex
	ip net.IP
}

// point has the name lead to ip from now on.
func (n *dnsName) point(ip string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.ip = net.ParseIP(ip).To4()
}

func serveDNS(t *testing.T) *dnsName {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var n dnsName
	var served sync.WaitGroup
	served.Go(func() { n.serve(conn) })

	addr := conn.LocalAddr().String()
	nameServer.Store(&addr)
	t.Cleanup(func() {
		nameServer.Store(nil)
		conn.Close()
		served.Wait()
	})
	return &n
}

func (n *dnsName) serve(conn net.PacketConn) {
	buffer := make([]byte, 512)
	for {
		length, from, err := conn.ReadFrom(buffer)
		if err != nil {
			return
		}
		var message dnsmessage.Message
		if message.Unpack(buffer[:length]) != nil {
			continue
		}
		n.resolve(&message)
		if packed, err := message.Pack(); err == nil {
			_, _ = conn.WriteTo(packed, from)
		}
	}
}

// resolve makes a response of a query.
func (n *dnsName) resolve(message *dnsmessage.Message) {
	n.mu.Lock()
	defer n.mu.Unlock()
	question := message.Questions[0]
	message.Response, message.Additionals = true, nil
	switch {
	case n.ip == nil:
		message.RCode = dnsmessage.RCodeNameError
	case question.Type == dnsmessage.TypeA:
		message.Answers = []dnsmessage.Resource{{
			Header: dnsmessage.ResourceHeader{Name: question.Name, Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET},
			Body:   &dnsmessage.AResource{A: [4]byte(n.ip)},
		}}
	}
}

// TestGRPCProxy goes through the proxy that the environment names. A process reads that once, so another
// one sends.
func TestGRPCProxy(t *testing.T) {
	const endpoint = "collector.test:4317" // the proxy alone knows where that is
	const sending = "CONNSPAN_TEST_SENDING"
	if os.Getenv(sending) != "" {
		l := startGRPC(t, grpcConfig(endpoint))
		consumeLogs(t, l, "a", "b")
		wantStats(t, l.Stats, Stats{Offered: 2, Sent: 2})
		return
	}
	s := serveGRPC(t, nil)
	asked := make(chan string, 10)
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked <- r.Method + " " + r.Host
		tunnel(t, w, s.addr)
	}))
	t.Cleanup(proxy.Close)
	sender := exec.CommandContext(t.Context(), os.Args[0], "-test.run", "^TestGRPCProxy$")
	sender.Env = append(os.Environ(), sending+"=1", "HTTPS_PROXY="+proxy.URL, "NO_PROXY=")
	if out, err := sender.CombinedOutput(); err != nil {
		t.Fatalf("%v:\n%s", err, out)
	}
	s.wait(t, "a", "b")
	if got, want := <-asked, "CONNECT "+endpoint; got != want {
		t.Errorf("the proxy was asked for %q, want %q", got, want)
	}
}

// tunnel answers a CONNECT, and passes on what comes until both ends are done.
func tunnel(t *testing.T, w http.ResponseWriter, addr string) {
	to, err := net.Dial("tcp", addr)
	if err != nil {
		t.Error(err)
		return
	}
	defer to.Close()
	from, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		t.Error(err)
		return
	}
	defer from.Close()
	_, _ = io.WriteString(from, "HTTP/1.1 200 OK\r\n\r\n")
	var back sync.WaitGroup
	defer back.Wait()
	back.Go(func() { _, _ = io.Copy(from, to) })
	_, _ = io.Copy(to, from)
	_ = to.(*net.TCPConn).CloseWrite()
}
