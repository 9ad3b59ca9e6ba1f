package otlp

import (
	"context"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
)

func withRetryInfo(code codes.Code, delay time.Duration) error {
	s, err := status.New(code, "slow down").WithDetails(&errdetails.RetryInfo{RetryDelay: durationpb.New(delay)})
	if err != nil {
		return err
	}
	return s.Err()
}

// withRetryAfter answers with a Retry-After header, or none when it is empty.
func withRetryAfter(code int, retryAfter string) func(w http.ResponseWriter) {
	return func(w http.ResponseWriter) {
		if retryAfter != "" {
			w.Header().Set("Retry-After", retryAfter)
		}
		w.WriteHeader(code)
	}
}

// TestAnswers has the server answer once in a way that is not success. What it took in the end, and
// how that is counted, is the same for all signals.
func TestAnswers(t *testing.T) {
	for _, tt := range []struct {
		name    string
		grpc    error
		http    func(w http.ResponseWriter)
		dropped int64
		delay   time.Duration
	}{
		{name: "CANCELLED", grpc: status.Error(codes.Canceled, "")},
		{name: "DEADLINE_EXCEEDED, 504", grpc: status.Error(codes.DeadlineExceeded, ""), http: withRetryAfter(504, "")},
		{name: "ABORTED, 502", grpc: status.Error(codes.Aborted, ""), http: withRetryAfter(502, "")},
		{name: "OUT_OF_RANGE", grpc: status.Error(codes.OutOfRange, "")},
		{name: "UNAVAILABLE, 503", grpc: status.Error(codes.Unavailable, ""), http: withRetryAfter(503, "")},
		{name: "DATA_LOSS", grpc: status.Error(codes.DataLoss, "")},
		{name: "UNAUTHENTICATED, 401", grpc: status.Error(codes.Unauthenticated, "token expired"), http: withRetryAfter(401, "")},
		{name: "PERMISSION_DENIED, 403", grpc: status.Error(codes.PermissionDenied, ""), http: withRetryAfter(403, "")},
		{
			name: "UNAVAILABLE with RetryInfo, 503 with a date", delay: 200 * time.Millisecond,
			grpc: withRetryInfo(codes.Unavailable, 200*time.Millisecond),
			http: func(w http.ResponseWriter) { // a date has no fractions of a second
				withRetryAfter(503, time.Now().UTC().Add(1200*time.Millisecond).Format(http.TimeFormat))(w)
			},
		},
		{
			name: "RESOURCE_EXHAUSTED with RetryInfo, 429 with seconds", delay: time.Second,
			grpc: withRetryInfo(codes.ResourceExhausted, time.Second), http: withRetryAfter(429, "1"),
		},
		{name: "RESOURCE_EXHAUSTED with RetryInfo of 0, 429", grpc: withRetryInfo(codes.ResourceExhausted, 0), http: withRetryAfter(429, "")},
		{name: "503 with nonsense", http: withRetryAfter(503, "soon")},
		{name: "RESOURCE_EXHAUSTED, 413", grpc: status.Error(codes.ResourceExhausted, ""), http: withRetryAfter(413, ""), dropped: 2},
		{name: "INVALID_ARGUMENT, 400", grpc: status.Error(codes.InvalidArgument, ""), http: withRetryAfter(400, ""), dropped: 2},
		{name: "INTERNAL, 500", grpc: status.Error(codes.Internal, ""), http: withRetryAfter(500, ""), dropped: 2},
	} {
		for _, m := range makers {
			if m.grpc != nil && tt.grpc == nil || m.http != nil && tt.http == nil {
				continue
			}
			t.Run(tt.name+"/"+m.name, func(t *testing.T) {
				t.Parallel()
				d := m.run(t, script{
					grpc: func(call int, _ *partial) error {
						if call == 0 {
							return tt.grpc
						}
						return nil
					},
					http: func(call int, w http.ResponseWriter) bool {
						if call == 0 {
							tt.http(w)
						}
						return call > 0
					},
				})
				mustOffer(t, d.subject, "a", "b")
				mustOffer(t, d.subject, "c", "d")
				mustOffer(t, d.subject, "e", "f")
				d.wait(t, []string{"a", "b", "c", "d", "e", "f"}[tt.dropped:]...)
				wantStats(t, d.Stats, Stats{Offered: 6, Sent: 6 - tt.dropped, Dropped: tt.dropped})
				if calls := d.all(); calls[1].at.Sub(calls[0].at) < tt.delay {
					t.Errorf("retried after %v, want no less than %v", calls[1].at.Sub(calls[0].at), tt.delay)
				}
			})
		}
	}
}

// TestSlowServer: a server that is slower than what is offered gets all of it, while there is room in
// the queue.
func TestSlowServer(t *testing.T) {
	for _, m := range eachTransport {
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			slow := func() { time.Sleep(200 * time.Millisecond) }
			d := m.run(t, script{
				grpc: func(int, *partial) error { slow(); return nil },
				http: func(int, http.ResponseWriter) bool { slow(); return true },
			})
			bodies := numbered(50)
			for part := range slices.Chunk(bodies, 5) {
				mustOffer(t, d.subject, part...)
			}
			if s := d.Stats(); s.Queued == 0 || s.Offered != s.Sent+s.Queued {
				t.Errorf("while it sends: %+v", s)
			}
			d.wait(t, bodies...)
			wantStats(t, d.Stats, Stats{Offered: 50, Sent: 50})
		})
	}
}

// TestFlappingServer: nothing is lost to a server that comes and goes. What it took without being
// able to say so goes there again.
func TestFlappingServer(t *testing.T) {
	for _, m := range eachTransport {
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			s, in, flap := m.flapping(t)
			var flapping sync.WaitGroup
			defer flapping.Wait()
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			flapping.Go(func() {
				for ctx.Err() == nil {
					flap()
				}
			})
			bodies := numbered(100)
			for part := range slices.Chunk(bodies, 2) {
				mustOffer(t, s, part...)
				time.Sleep(20 * time.Millisecond)
			}
			wantStats(t, s.Stats, Stats{Offered: 100, Sent: 100})
			if diff := cmp.Diff(bodies, slices.Compact(in.taken())); diff != "" {
				t.Errorf("items taken (-want +got):\n%s", diff)
			}
		})
	}
}

// flapping returns a running exporter and its server, which flap stops and starts again.
func (m maker) flapping(t *testing.T) (s subject, in *inbox, flap func()) {
	addr := freeAddr(t)
	pause := func() { time.Sleep(200 * time.Millisecond) }
	if m.grpc != nil {
		server := serveGRPCAt(t, addr, nil)
		cfg := grpcConfig(addr)
		return start(t, m.grpc(t, settings(), cfg)), server.inbox, func() {
			pause()
			server.stop()
			pause()
			server.serve(t)
		}
	}
	server := &httpServer{inbox: &inbox{}}
	server.serveAt(t, addr)
	return start(t, m.http(t, settings(), httpConfig("http://"+addr))), server.inbox, func() {
		pause()
		server.CloseClientConnections()
		server.Close()
		pause()
		server.serveAt(t, addr)
	}
}

// TestServerReturns holds the defaults to the promise that a server is used within 5 s of its return,
// however long it was away: after 3 s the waits are about as long as they get.
func TestServerReturns(t *testing.T) {
	for _, m := range eachTransport {
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			addr := freeAddr(t)
			var s subject
			var serve func() *inbox
			if m.grpc != nil {
				cfg := grpcConfig(addr)
				cfg.RetryConfig = defaultRetryConfig()
				s = m.grpc(t, settings(), cfg)
				serve = func() *inbox { return serveGRPCAt(t, addr, nil).inbox }
			} else {
				cfg := httpConfig("http://" + addr)
				cfg.RetryConfig = defaultRetryConfig()
				s = m.http(t, settings(), cfg)
				serve = func() *inbox {
					server := &httpServer{inbox: &inbox{}}
					server.serveAt(t, addr)
					return server.inbox
				}
			}
			start(t, s)
			mustOffer(t, s, "a")
			time.Sleep(3 * time.Second)
			back := time.Now()
			in := serve()
			in.wait(t, "a")
			if d := in.all()[0].at.Sub(back); d > 5*time.Second {
				t.Errorf("used %v after its return", d)
			}
		})
	}
}
