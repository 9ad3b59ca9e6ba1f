package otlp

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func TestPartialSuccess(t *testing.T) {
	answers := []partial{
		{rejected: 1, message: "one\nbad \x1b[31mapple\xff"},
		{message: "deprecated"},
		{rejected: 1000}, // more than it was sent
		{rejected: -1},
	}
	for _, m := range makers {
		t.Run(m.name, func(t *testing.T) {
			set, logs := observed()
			d := m.deploy(t, set, script{
				grpc: func(call int, p *partial) error {
					*p = answers[call]
					return nil
				},
				http: func(call int, w http.ResponseWriter) bool {
					respond(t, w, answers[call])
					return true
				},
			})
			start(t, d.subject)
			for i := range answers {
				mustOffer(t, d.subject, fmt.Sprint(i, "a"), fmt.Sprint(i, "b"))
				d.waitCalls(t, i+1)
			}
			wantStats(t, d.Stats, Stats{Offered: 8, Sent: 5, Rejected: 3})
			d.wait(t, "0a", "0b", "1a", "1b", "2a", "2b", "3a", "3b") // each once

			warnings := logs.FilterMessage(reservations).All()
			if len(warnings) != 1 {
				t.Fatalf("logged %d times, want once", len(warnings))
			}
			got := warnings[0].ContextMap()
			delete(got, "items")
			want := map[string]any{
				"server": d.server, "sent": int64(2), "rejected": int64(1), "message": "one bad  [31mapple\uFFFD",
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("logged (-want +got):\n%s", diff)
			}
		})
	}
}

// respond answers with a partial success, which looks the same for all signals.
func respond(t *testing.T, w http.ResponseWriter, p partial) {
	response := plogotlp.NewExportResponse()
	response.PartialSuccess().SetRejectedLogRecords(p.rejected)
	response.PartialSuccess().SetErrorMessage(p.message)
	body, err := response.MarshalProto()
	if err != nil {
		t.Error(err)
	}
	w.Header().Set("Content-Type", contentProto)
	_, _ = w.Write(body)
}

// TestOrder: what is given first arrives first, also when it has to be sent again.
func TestOrder(t *testing.T) {
	s := serveGRPC(t, func(call int, _ *partial) error {
		if call%3 == 0 {
			return status.Error(codes.Unavailable, "busy")
		}
		return nil
	})
	l := startGRPC(t, grpcConfig(s.addr))
	bodies := numbered(200)
	for i := 0; i < len(bodies); i += 2 {
		consumeLogs(t, l, bodies[i:i+2]...)
	}
	s.wait(t, bodies...)
	var got []string
	for _, a := range s.all() {
		for _, body := range a.bodies {
			if !slices.Contains(got, body) {
				got = append(got, body)
			}
		}
	}
	if diff := cmp.Diff(bodies, got); diff != "" {
		t.Errorf("order of arrival (-want +got):\n%s", diff)
	}
}

// TestLargeBatch goes to a server with gRPC's limit of 4 MiB, which the batch exceeds and one item
// exceeds all by itself.
func TestLargeBatch(t *testing.T) {
	for _, m := range makers {
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			d := m.run(t, script{ // in the midst of the batch: what went before must not go again
				grpc: func(call int, _ *partial) error {
					if call == 1 {
						return status.Error(codes.Unavailable, "busy")
					}
					return nil
				},
				http: func(call int, w http.ResponseWriter) bool {
					if call == 1 {
						w.WriteHeader(http.StatusServiceUnavailable)
					}
					return call != 1
				},
			})
			bodies := large()
			mustOffer(t, d.subject, slices.Concat(bodies[:30], []string{strings.Repeat("x", maxRequestSize)}, bodies[30:])...)
			d.wait(t, bodies...)
			wantStats(t, d.Stats, Stats{Offered: 61, Sent: 60, Dropped: 1})
		})
	}
}

func TestNotRunning(t *testing.T) {
	s := serveGRPC(t, nil)
	l := mustGRPC(t, settings(), grpcConfig(s.addr))
	for _, phase := range []string{"before Start", "after Shutdown"} {
		if err := l.ConsumeLogs(t.Context(), logsOf("a")); !errors.Is(err, os.ErrClosed) {
			t.Errorf("%s: got %v, want os.ErrClosed", phase, err)
		}
		if phase == "before Start" {
			start(t, l)
			if err := errors.Join(l.Shutdown(t.Context()), l.Shutdown(t.Context())); err != nil {
				t.Errorf("Shutdown: %v", err)
			}
		}
	}
	wantStats(t, l.Stats, Stats{Offered: 2, Refused: 2})
}

func TestShutdownBeforeStart(t *testing.T) {
	for _, l := range []*Logs{
		mustGRPC(t, settings(), grpcConfig("localhost:4317")),
		mustHTTP(t, settings(), httpConfig("http://localhost:4318")),
	} {
		if err := l.Shutdown(t.Context()); err != nil {
			t.Errorf("%s: %v", l.transport, err)
		}
	}
}

func TestShutdownDrains(t *testing.T) {
	s := serveGRPC(t, nil)
	cfg := grpcConfig(s.addr)
	l := startGRPC(t, cfg)
	bodies := numbered(100)
	for _, body := range bodies {
		consumeLogs(t, l, body)
	}
	if err := l.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.wait(t, bodies...)
	wantStats(t, l.Stats, Stats{Offered: 100, Sent: 100})
}

// TestShutdownWithoutServer: what is lost is said, and no request outlasts the deadline.
func TestShutdownWithoutServer(t *testing.T) {
	t.Run("down", func(t *testing.T) {
		s := serveGRPC(t, nil)
		s.stop()
		l := startGRPC(t, grpcConfig(s.addr))
		consumeLogs(t, l, "a", "b")
		want := "shutting down export to " + s.addr + ": 2 of 2 log records not delivered"
		if err := l.Shutdown(t.Context()); err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	})
	t.Run("hanging", func(t *testing.T) {
		release := make(chan struct{})
		s := serveGRPC(t, func(int, *partial) error {
			<-release
			return nil
		})
		defer close(release)
		cfg := grpcConfig(s.addr)
		cfg.TimeoutConfig.Timeout = time.Hour
		l := startGRPC(t, cfg)
		consumeLogs(t, l, "a", "b")
		s.waitCalls(t, 1)
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		want := "shutting down export to " + s.addr + ": 2 of 2 log records not delivered"
		if err := l.Shutdown(ctx); err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	})
}

// TestConcurrentSafe: nothing is lost or counted twice when many call at once.
func TestConcurrentSafe(t *testing.T) {
	s := serveGRPC(t, nil)
	l := startGRPC(t, grpcConfig(s.addr))
	bodies := numbered(1000)
	var producers sync.WaitGroup
	for part := range slices.Chunk(bodies, 100) {
		producers.Go(func() {
			for _, body := range part {
				if err := l.ConsumeLogs(t.Context(), logsOf(body)); err != nil {
					t.Error(err)
				}
				l.Stats()
			}
		})
	}
	producers.Wait()
	if err := l.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.wait(t, bodies...)
	wantStats(t, l.Stats, Stats{Offered: 1000, Sent: 1000})
}
