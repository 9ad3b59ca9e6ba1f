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
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/config/configoptional"
	"go.opentelemetry.io/collector/exporter/exporterhelper"
	"go.opentelemetry.io/collector/extension/xextension/storage"
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func TestPartialSuccess(t *testing.T) {
	answer := func(call int, response plogotlp.ExportResponse) {
		partial := response.PartialSuccess()
		switch call {
		case 0:
			partial.SetRejectedLogRecords(1)
			partial.SetErrorMessage("one\nbad \x1b[31mapple\xff")
		case 1:
			partial.SetErrorMessage("deprecated")
		case 2:
			partial.SetRejectedLogRecords(1000) // more than it was sent
		case 3:
			partial.SetRejectedLogRecords(-1)
		}
	}
	t.Run("gRPC", func(t *testing.T) {
		s := serveGRPC(t, func(call int, response plogotlp.ExportResponse) error {
			answer(call, response)
			return nil
		})
		set, logs := observed()
		testPartialSuccess(t, start(t, mustGRPC(t, set, grpcConfig(s.addr))), &s.inbox)
		checkReservations(t, logs.FilterMessage(reservations).All()[0].ContextMap(), s.addr)
		if n := logs.FilterMessage(reservations).Len(); n != 1 {
			t.Errorf("logged %d times, want once", n)
		}
	})
	for _, encoding := range []string{EncodingProto, EncodingJSON} {
		t.Run("HTTP "+encoding, func(t *testing.T) {
			s := serveHTTP(t, func(call int, w http.ResponseWriter) bool {
				response := plogotlp.NewExportResponse()
				answer(call, response)
				respond(t, w, encoding, response)
				return true
			})
			set, logs := observed()
			cfg := httpConfig(s.URL)
			cfg.Encoding = encoding
			testPartialSuccess(t, start(t, mustHTTP(t, set, cfg)), &s.inbox)
			checkReservations(t, logs.FilterMessage(reservations).All()[0].ContextMap(), s.URL+"/v1/logs")
		})
	}
}

func respond(t *testing.T, w http.ResponseWriter, encoding string, response plogotlp.ExportResponse) {
	contentType, marshal := contentProto, response.MarshalProto
	if encoding == EncodingJSON {
		contentType, marshal = contentJSON, response.MarshalJSON
	}
	body, err := marshal()
	if err != nil {
		t.Error(err)
	}
	w.Header().Set("Content-Type", contentType)
	_, _ = w.Write(body)
}

func testPartialSuccess(t *testing.T, l *Logs, in *inbox) {
	t.Helper()
	for i := range 4 {
		consume(t, l, fmt.Sprint(i, "a"), fmt.Sprint(i, "b"))
		in.waitCalls(t, i+1)
	}
	wantStats(t, l, Stats{Offered: 8, Sent: 5, Rejected: 3})
	in.wait(t, "0a", "0b", "1a", "1b", "2a", "2b", "3a", "3b") // each once
}

func checkReservations(t *testing.T, got map[string]any, server string) {
	t.Helper()
	want := map[string]any{
		"server": server, "log_records": int64(2), "rejected_log_records": int64(1), "message": "one bad  [31mapple\uFFFD",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("logged (-want +got):\n%s", diff)
	}
}

func TestQueueFull(t *testing.T) {
	release := make(chan struct{})
	s := serveGRPC(t, func(int, plogotlp.ExportResponse) error {
		<-release // hangs: if ConsumeLogs waited for the server, so would this test
		return nil
	})
	cfg := grpcConfig(s.addr)
	cfg.TimeoutConfig.Timeout = time.Hour
	cfg.QueueConfig.Get().QueueSize = 10
	set, logs := observed()
	l := start(t, mustGRPC(t, set, cfg))

	bodies := numbered(16)
	for i := 0; i < len(bodies); i += 2 {
		err := l.ConsumeLogs(t.Context(), logsOf(bodies[i:i+2]...))
		if full := i >= 10; errors.Is(err, exporterhelper.ErrQueueIsFull) != full || (err != nil) != full {
			t.Errorf("record %d of a queue for 10: got %v", i, err)
		}
	}
	close(release)
	s.wait(t, bodies[:10]...)
	wantStats(t, l, Stats{Offered: 16, Refused: 6, Sent: 10})
	if n := logs.FilterMessageSnippet("Rejecting data").Len(); n != 1 {
		t.Errorf("logged %d times, want once", n)
	}
}

// TestOrder: what is given first arrives first, also when it has to be sent again.
func TestOrder(t *testing.T) {
	s := serveGRPC(t, func(call int, _ plogotlp.ExportResponse) error {
		if call%3 == 0 {
			return status.Error(codes.Unavailable, "busy")
		}
		return nil
	})
	l := startGRPC(t, grpcConfig(s.addr))
	bodies := numbered(200)
	for i := 0; i < len(bodies); i += 2 {
		consume(t, l, bodies[i:i+2]...)
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

// TestLargeBatch goes to a server with gRPC's limit of 4 MiB, which the batch exceeds and one record
// exceeds all by itself.
func TestLargeBatch(t *testing.T) {
	s := serveGRPC(t, func(call int, _ plogotlp.ExportResponse) error {
		if call == 1 { // in the midst of the batch: what went before must not go again
			return status.Error(codes.Unavailable, "busy")
		}
		return nil
	})
	cfg := grpcConfig(s.addr)
	l := startGRPC(t, cfg)

	bodies := numbered(1000)
	for i := range bodies {
		bodies[i] += strings.Repeat(".", 10_000)
	}
	consume(t, l, append(slices.Clone(bodies), strings.Repeat("x", maxRequestSize))...)
	s.wait(t, bodies...)
	wantStats(t, l, Stats{Offered: 1001, Sent: 1000, Dropped: 1})
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
	wantStats(t, l, Stats{Offered: 2, Refused: 2})
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
		consume(t, l, body)
	}
	if err := l.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.wait(t, bodies...)
	wantStats(t, l, Stats{Offered: 100, Sent: 100})
}

// TestShutdownWithoutServer: what is lost is said, and no request outlasts the deadline.
func TestShutdownWithoutServer(t *testing.T) {
	t.Run("down", func(t *testing.T) {
		s := serveGRPC(t, nil)
		s.stop()
		l := startGRPC(t, grpcConfig(s.addr))
		consume(t, l, "a", "b")
		want := "shutting down export to " + s.addr + ": 2 of 2 log records not delivered"
		if err := l.Shutdown(t.Context()); err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	})
	t.Run("hanging", func(t *testing.T) {
		release := make(chan struct{})
		s := serveGRPC(t, func(int, plogotlp.ExportResponse) error {
			<-release
			return nil
		})
		defer close(release)
		cfg := grpcConfig(s.addr)
		cfg.TimeoutConfig.Timeout = time.Hour
		l := startGRPC(t, cfg)
		consume(t, l, "a", "b")
		s.waitCalls(t, 1)
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		want := "shutting down export to " + s.addr + ": 2 of 2 log records not delivered"
		if err := l.Shutdown(ctx); err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	})
}

// TestStorage: with a queue in storage, what Shutdown could not deliver arrives after a restart.
func TestStorage(t *testing.T) {
	release := make(chan struct{})
	s := serveGRPC(t, func(call int, _ plogotlp.ExportResponse) error {
		if call == 0 {
			<-release
			return status.Error(codes.Unavailable, "")
		}
		return nil
	})
	disk := component.MustNewID("disk")
	extensions := host{disk: &memory{values: make(map[string][]byte)}}
	cfg := grpcConfig(s.addr)
	cfg.TimeoutConfig.Timeout = time.Hour
	cfg.QueueConfig.Get().StorageID = &disk

	l := mustGRPC(t, settings(), cfg)
	if err := l.Start(t.Context(), extensions); err != nil {
		t.Fatal(err)
	}
	consume(t, l, "a", "b")
	s.waitCalls(t, 1)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := l.Shutdown(ctx); err != nil {
		t.Fatal(err)
	}
	close(release)

	l = mustGRPC(t, settings(), cfg)
	if err := l.Start(t.Context(), extensions); err != nil {
		t.Fatal(err)
	}
	s.wait(t, "a", "b")
	if err := l.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// memory is a storage extension that forgets nothing until the test is over.
type memory struct {
	component.StartFunc
	component.ShutdownFunc
	mu     sync.Mutex
	values map[string][]byte
}

var _ storage.Extension = (*memory)(nil)

func (m *memory) GetClient(context.Context, component.Kind, component.ID, string) (storage.Client, error) {
	return m, nil
}

func (m *memory) Get(ctx context.Context, key string) ([]byte, error) {
	get := storage.GetOperation(key)
	err := m.Batch(ctx, get)
	return get.Value, err
}

func (m *memory) Set(ctx context.Context, key string, value []byte) error {
	return m.Batch(ctx, storage.SetOperation(key, value))
}

func (m *memory) Delete(ctx context.Context, key string) error {
	return m.Batch(ctx, storage.DeleteOperation(key))
}

func (m *memory) Close(context.Context) error { return nil }

func (m *memory) Batch(_ context.Context, operations ...*storage.Operation) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, op := range operations {
		switch op.Type {
		case storage.Get:
			op.Value = m.values[op.Key]
		case storage.Set:
			m.values[op.Key] = slices.Clone(op.Value)
		case storage.Delete:
			delete(m.values, op.Key)
		}
	}
	return nil
}

// TestWithoutQueue: ConsumeLogs returns what became of the records, and they are counted once.
func TestWithoutQueue(t *testing.T) {
	s := serveGRPC(t, func(call int, _ plogotlp.ExportResponse) error {
		return []error{nil, status.Error(codes.InvalidArgument, "no"), status.Error(codes.Unavailable, "busy")}[call]
	})
	cfg := grpcConfig(s.addr)
	cfg.QueueConfig = configoptional.None[exporterhelper.QueueBatchConfig]()
	cfg.RetryConfig.Enabled = false
	l := startGRPC(t, cfg)

	for i, want := range []codes.Code{codes.OK, codes.InvalidArgument, codes.Unavailable} {
		if err := l.ConsumeLogs(t.Context(), logsOf("a")); status.Code(err) != want {
			t.Errorf("call %d: got %v, want %v", i, err, want)
		}
	}
	wantStats(t, l, Stats{Offered: 3, Refused: 1, Sent: 1, Dropped: 1})
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
	wantStats(t, l, Stats{Offered: 1000, Sent: 1000})
}
