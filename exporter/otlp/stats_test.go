package otlp

import (
	"context"
	"errors"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/config/configoptional"
	"go.opentelemetry.io/collector/config/configretry"
	"go.opentelemetry.io/collector/exporter/exporterhelper"
	"go.opentelemetry.io/collector/extension/xextension/storage"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

type (
	queueConfig = configoptional.Optional[exporterhelper.QueueBatchConfig]
	retryConfig = configretry.BackOffConfig
)

// busyAfter takes n requests and then no more.
func busyAfter(n int) script {
	return script{
		grpc: func(call int, _ *partial) error {
			if call >= n {
				return status.Error(codes.Unavailable, "busy")
			}
			return nil
		},
		http: func(call int, w http.ResponseWriter) bool {
			if call >= n {
				w.WriteHeader(http.StatusServiceUnavailable)
			}
			return call < n
		},
	}
}

func soonOver(_ *queueConfig, retry *retryConfig) {
	retry.MaxElapsedTime, retry.MaxInterval = 50*time.Millisecond, 10*time.Millisecond
}

func noRetry(_ *queueConfig, retry *retryConfig) { retry.Enabled = false }

func noQueue(queue *queueConfig, _ *retryConfig) {
	*queue = configoptional.None[exporterhelper.QueueBatchConfig]()
}

func waiting(queue *queueConfig, _ *retryConfig) { queue.Get().WaitForResult = true }

func batching(queue *queueConfig, _ *retryConfig) {
	batch := exporterhelper.NewDefaultBatchConfig()
	batch.FlushTimeout, batch.MinSize, batch.MaxSize = 10*time.Millisecond, 30, 30
	queue.Get().Batch = configoptional.Some(batch)
}

// TestGivenUp counts what is tried for some time in vain, also when only a part of a batch is.
func TestGivenUp(t *testing.T) {
	for _, tt := range []struct {
		name       string
		tunes      []tune
		takes      int // requests
		bodies     []string
		want       Stats
		returnsErr bool
	}{
		{name: "max_elapsed_time", tunes: []tune{soonOver}, bodies: numbered(2), want: Stats{Offered: 2, GivenUp: 2}},
		{name: "no retries", tunes: []tune{noRetry}, bodies: numbered(2), want: Stats{Offered: 2, GivenUp: 2}},
		{
			name: "no retries, no queue", tunes: []tune{noRetry, noQueue}, bodies: numbered(2),
			want: Stats{Offered: 2, GivenUp: 2}, returnsErr: true,
		},
		{
			name: "max_elapsed_time, wait_for_result", tunes: []tune{soonOver, waiting}, bodies: numbered(2),
			want: Stats{Offered: 2, GivenUp: 2}, returnsErr: true,
		},
		{name: "second half, max_elapsed_time", tunes: []tune{soonOver}, takes: 1, bodies: large(), want: Stats{Offered: 60, Sent: 30, GivenUp: 30}},
		{name: "second half, no retries", tunes: []tune{noRetry}, takes: 1, bodies: large(), want: Stats{Offered: 60, Sent: 30, GivenUp: 30}},
		{
			name: "second half, no retries, no queue", tunes: []tune{noRetry, noQueue}, takes: 1, bodies: large(),
			want: Stats{Offered: 60, Sent: 30, GivenUp: 30}, returnsErr: true,
		},
		{name: "second batch", tunes: []tune{noRetry, batching}, takes: 1, bodies: numbered(60), want: Stats{Offered: 60, Sent: 30, GivenUp: 30}},
	} {
		for _, m := range eachTransport {
			t.Run(tt.name+"/"+m.name, func(t *testing.T) {
				d := m.run(t, busyAfter(tt.takes), tt.tunes...)
				if err := d.offer(t.Context(), tt.bodies...); (err != nil) != tt.returnsErr {
					t.Errorf("offering: %v", err)
				}
				wantStats(t, d.Stats, tt.want)
			})
		}
	}
}

// TestCallerGoes: with wait_for_result, who goes without waiting does not take the items along.
func TestCallerGoes(t *testing.T) {
	for _, m := range eachTransport {
		t.Run(m.name, func(t *testing.T) {
			d := m.run(t, script{}, waiting)
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			if err := d.offer(ctx, "a"); err != nil {
				t.Error(err)
			}
			d.wait(t, "a")
			wantStats(t, d.Stats, Stats{Offered: 1, Sent: 1})
		})
	}
}

// TestBlockedCallers: who waits for room when Shutdown comes is refused or served, and counted once.
func TestBlockedCallers(t *testing.T) {
	disk := component.MustNewID("disk")
	for name, storing := range map[string]tune{
		"memory":  func(*queueConfig, *retryConfig) {},
		"storage": func(queue *queueConfig, _ *retryConfig) { queue.Get().StorageID = &disk },
	} {
		for _, m := range eachTransport {
			t.Run(name+"/"+m.name, func(t *testing.T) {
				d := m.deploy(t, settings(), busyAfter(0), storing, func(queue *queueConfig, _ *retryConfig) {
					queue.Get().QueueSize, queue.Get().BlockOnOverflow = 2, true
				})
				if err := d.Start(t.Context(), host{disk: newMemory()}); err != nil {
					t.Fatal(err)
				}
				var callers sync.WaitGroup
				var failed [8]error
				for i := range failed {
					callers.Go(func() { failed[i] = d.offer(t.Context(), "a") })
				}
				d.waitCalls(t, 2)
				eventually(t, func() bool { return d.Stats().Offered == 8 })
				_ = d.Shutdown(t.Context())
				callers.Wait()

				var refused int64
				for _, err := range failed {
					if err != nil {
						refused++
					}
				}
				s := d.Stats()
				want := Stats{Offered: 8, Refused: refused, GivenUp: 8 - refused}
				if name == "storage" {
					want.GivenUp, want.Queued = 0, want.GivenUp
				}
				if diff := cmp.Diff(want, s); diff != "" || refused == 0 {
					t.Errorf("%d refused (-want +got):\n%s", refused, diff)
				}
			})
		}
	}
}

// TestStorage: what one process could not deliver, or had not heard to be delivered when it was killed,
// the next one delivers. Each accounts for what it has seen.
func TestStorage(t *testing.T) {
	disk := component.MustNewID("disk")
	storing := func(queue *queueConfig, _ *retryConfig) { queue.Get().StorageID = &disk }
	for _, tt := range []struct {
		name   string
		tunes  []tune
		killed bool
		spoil  func(m *memory)
		want   Stats // of the second process
	}{
		{name: "shut down", want: Stats{Recovered: 6, Offered: 2, Sent: 8}},
		{name: "shut down, in batches", tunes: []tune{batching}, want: Stats{Recovered: 6, Offered: 2, Sent: 8}},
		{name: "killed", killed: true, want: Stats{Recovered: 6, Offered: 2, Sent: 8}},
		{
			name: "with one request that cannot be read", want: Stats{Recovered: 4, Offered: 2, Sent: 6},
			spoil: func(m *memory) { m.values["1"] = []byte("\xff") },
		},
	} {
		for _, m := range makers {
			t.Run(tt.name+"/"+m.name, func(t *testing.T) {
				first := newMemory()
				tunes := append([]tune{storing}, tt.tunes...)
				d := m.deploy(t, settings(), busyAfter(0), tunes...)
				if err := d.Start(t.Context(), host{disk: first}); err != nil {
					t.Fatal(err)
				}
				for _, bodies := range [][]string{{"a", "b"}, {"c", "d"}, {"e", "f"}} {
					mustOffer(t, d.subject, bodies...)
				}
				d.waitCalls(t, 1)
				second := first.copy()
				if err := d.Shutdown(t.Context()); err != nil {
					t.Error(err)
				}
				wantStats(t, d.Stats, Stats{Offered: 6, Queued: 6})
				if !tt.killed {
					second = first.copy()
				}
				if tt.spoil != nil {
					tt.spoil(second)
				}

				d = m.deploy(t, settings(), script{}, tunes...)
				if err := d.Start(t.Context(), host{disk: second}); err != nil {
					t.Fatal(err)
				}
				mustOffer(t, d.subject, "g", "h")
				eventually(t, func() bool { return d.Stats().Sent >= tt.want.Sent })
				wantStats(t, d.Stats, tt.want)
				if n := len(d.taken()); n != int(tt.want.Sent) {
					t.Errorf("%d items taken, want %d", n, tt.want.Sent)
				}
				if err := d.Shutdown(t.Context()); err != nil {
					t.Fatal(err)
				}
			})
		}
	}
}

// TestStorageGivesUp: what max_elapsed_time gives up is gone from storage, too.
func TestStorageGivesUp(t *testing.T) {
	disk := component.MustNewID("disk")
	for _, m := range eachTransport {
		t.Run(m.name, func(t *testing.T) {
			d := m.deploy(t, settings(), busyAfter(0), soonOver, func(queue *queueConfig, _ *retryConfig) { queue.Get().StorageID = &disk })
			stored := newMemory()
			if err := d.Start(t.Context(), host{disk: stored}); err != nil {
				t.Fatal(err)
			}
			mustOffer(t, d.subject, "a", "b")
			wantStats(t, d.Stats, Stats{Offered: 2, GivenUp: 2})
			if err := d.Shutdown(t.Context()); err != nil {
				t.Error(err)
			}
			if diff := cmp.Diff([]string{"qmv0"}, slices.Sorted(maps.Keys(stored.values))); diff != "" {
				t.Errorf("stored (-want +got):\n%s", diff)
			}
		})
	}
}

// TestQueueFull: what finds no room is refused at once. Stats says the same as exporterhelper measures
// by itself.
func TestQueueFull(t *testing.T) {
	names := map[string]string{"logs": "log_records", "metrics": "metric_points", "traces": "spans"}
	for _, m := range makers {
		t.Run(m.name, func(t *testing.T) {
			reader := sdkmetric.NewManualReader()
			set, logs := observed()
			set.MeterProvider = sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader))
			release := make(chan struct{})
			d := m.deploy(t, set, script{
				// Hangs: if offering waited for the server, so would this test.
				grpc: func(int, *partial) error { <-release; return nil },
				http: func(int, http.ResponseWriter) bool { <-release; return true },
			}, func(queue *queueConfig, _ *retryConfig) { queue.Get().QueueSize = 4 })
			start(t, d.subject)
			for i, bodies := range [][]string{{"a", "b"}, {"c"}, {"d", "e"}, {"f"}, {"g"}} {
				err := d.offer(t.Context(), bodies...)
				if refused := i == 2 || i == 4; errors.Is(err, exporterhelper.ErrQueueIsFull) != refused || (err != nil) != refused {
					t.Errorf("batch %d: got %v", i, err)
				}
			}
			d.waitCalls(t, 1)
			wantStats(t, d.Stats, Stats{Offered: 7, Refused: 3, Queued: 4})
			_, signal, _ := strings.Cut(m.name, " ")
			items := names[signal]
			checkMetrics(t, reader, map[string]int64{"otelcol_exporter_queue_size": 4, "otelcol_exporter_enqueue_failed_" + items: 3})

			close(release)
			d.wait(t, "a", "b", "c", "f")
			wantStats(t, d.Stats, Stats{Offered: 7, Refused: 3, Sent: 4})
			if err := d.Shutdown(t.Context()); err != nil {
				t.Error(err)
			}
			checkMetrics(t, reader, map[string]int64{"otelcol_exporter_sent_" + items: 4})
			if n := logs.FilterMessageSnippet("Rejecting data").Len(); n != 1 {
				t.Errorf("logged %d times, want once", n)
			}
		})
	}
}

// checkMetrics compares the values of sums and gauges that have no more than one series.
func checkMetrics(t *testing.T, reader sdkmetric.Reader, want map[string]int64) {
	t.Helper()
	var collected metricdata.ResourceMetrics
	if err := reader.Collect(t.Context(), &collected); err != nil {
		t.Fatal(err)
	}
	got := make(map[string]int64)
	for _, scope := range collected.ScopeMetrics {
		for _, m := range scope.Metrics {
			if _, wanted := want[m.Name]; !wanted {
				continue
			}
			switch data := m.Data.(type) {
			case metricdata.Sum[int64]:
				got[m.Name] = data.DataPoints[0].Value
			case metricdata.Gauge[int64]:
				got[m.Name] = data.DataPoints[0].Value
			}
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("metrics of the helper (-want +got):\n%s", diff)
	}
}

func newMemory() *memory { return &memory{values: make(map[string][]byte)} }

// memory is a storage extension that forgets nothing until the test is over.
type memory struct {
	component.StartFunc
	component.ShutdownFunc
	mu     sync.Mutex
	values map[string][]byte
}

var _ storage.Extension = (*memory)(nil)

// copy returns what a process finds that starts when this one is killed.
func (m *memory) copy() *memory {
	m.mu.Lock()
	defer m.mu.Unlock()
	return &memory{values: maps.Clone(m.values)}
}

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
