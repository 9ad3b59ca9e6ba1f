package otlp

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
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
	"go.uber.org/zap/zapcore"
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

// openWhen is a server that is busy until open says so, and then answers as answers does, whose calls
// are counted from 0 again.
func openWhen(open *atomic.Bool, answers script) script {
	busy := busyAfter(0)
	var calls atomic.Int64
	return script{
		grpc: func(call int, p *partial) error {
			if !open.Load() {
				return busy.grpc(call, p)
			}
			return answers.grpc(int(calls.Add(1)-1), p)
		},
		http: func(call int, w http.ResponseWriter) bool {
			if !open.Load() {
				return busy.http(call, w)
			}
			return answers.http(int(calls.Add(1)-1), w)
		},
	}
}

// store runs an exporter whose queue is in storage.
func (m maker) store(t *testing.T, in component.Component, answers script, tunes ...tune) *deployment {
	t.Helper()
	disk := component.MustNewID("disk")
	d := m.deploy(t, settings(), answers, append(tunes, func(queue *queueConfig, _ *retryConfig) { queue.Get().StorageID = &disk })...)
	if err := d.Start(t.Context(), host{disk: in}); err != nil {
		t.Fatal(err)
	}
	return &d
}

// wantEmpty waits until the queue has nothing in storage, skipping what was sent together, and shuts the
// exporter down.
func wantEmpty(t *testing.T, d *deployment, stored *memory) {
	t.Helper()
	eventually(t, func() bool { return cmp.Equal([]string{"joined", "qmv0"}, stored.keys()) })
	if err := d.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestJoined: small requests that wait in storage are sent as few, in order, each item once. Those that
// only together are too large are not, nor those that several consumers take.
func TestJoined(t *testing.T) {
	for _, tt := range []struct {
		name        string
		items, size int
		consumers   int
		least, most int // requests
	}{
		{"small", 20, 3, 1, 1, 2},
		{"large", 6, 900 << 10, 1, 3, 4},
		{"several consumers", 20, 3, 2, 20, 20},
	} {
		for _, m := range makers {
			t.Run(tt.name+"/"+m.name, func(t *testing.T) {
				var open atomic.Bool
				stored := newMemory()
				d := m.store(t, stored, openWhen(&open, busyAfter(math.MaxInt)), func(queue *queueConfig, _ *retryConfig) {
					queue.Get().NumConsumers = tt.consumers
				})
				var bodies []string
				for i := range tt.items {
					bodies = append(bodies, fmt.Sprintf("%0*d", tt.size, i))
					mustOffer(t, d.subject, bodies[i])
				}
				d.waitCalls(t, 1)
				open.Store(true)
				d.wait(t, slices.Clone(bodies)...)
				wantStats(t, d.Stats, Stats{Offered: int64(tt.items), Sent: int64(tt.items)})
				var got []string
				requests := 0
				for _, a := range d.all() {
					if a.taken {
						got = append(got, a.bodies...)
						requests++
					}
				}
				if requests < tt.least || requests > tt.most {
					t.Errorf("%d requests, want %d to %d", requests, tt.least, tt.most)
				}
				if diff := cmp.Diff(bodies, got); diff != "" && tt.consumers == 1 {
					t.Errorf("order of arrival (-want +got):\n%s", diff)
				}
				wantEmpty(t, d, stored)
			})
		}
	}
}

// TestJoinedInterrupted: what was on its way together when a process ended is all sent by the next one,
// once.
func TestJoinedInterrupted(t *testing.T) {
	for _, m := range makers {
		t.Run(m.name, func(t *testing.T) {
			stored := newMemory()
			first := m.store(t, stored, busyAfter(0))
			for _, body := range []string{"a", "b", "c", "d"} {
				mustOffer(t, first.subject, body)
			}
			first.waitCalls(t, 1)
			_ = first.Shutdown(t.Context())

			second := m.store(t, stored, busyAfter(0))
			second.waitCalls(t, 1)
			if n := len(second.all()[0].bodies); n != 4 {
				t.Errorf("%d items in a request, want 4", n)
			}
			_ = second.Shutdown(t.Context())

			third := m.store(t, stored, script{})
			third.wait(t, "a", "b", "c", "d")
			wantStats(t, third.Stats, Stats{Recovered: 4, Sent: 4})
			wantEmpty(t, third, stored)
		})
	}
}

// TestStorageGivesUp: what max_elapsed_time gives up is gone from storage, too.
func TestStorageGivesUp(t *testing.T) {
	for _, m := range eachTransport {
		t.Run(m.name, func(t *testing.T) {
			stored := newMemory()
			d := m.store(t, stored, busyAfter(0), soonOver)
			mustOffer(t, d.subject, "a", "b")
			wantStats(t, d.Stats, Stats{Offered: 2, GivenUp: 2})
			wantEmpty(t, d, stored)
		})
	}
}

// TestJoinedStopped: what was taken together while the process ended is not sent again, though the queue
// had no time to skip it.
func TestJoinedStopped(t *testing.T) {
	for _, m := range makers {
		t.Run(m.name, func(t *testing.T) {
			var open atomic.Bool
			inFlight, answer := make(chan struct{}, 100), make(chan struct{})
			wait := func() { inFlight <- struct{}{}; <-answer }
			stored := newMemory()
			first := m.store(t, stored, openWhen(&open, script{
				grpc: func(int, *partial) error { wait(); return nil },
				http: func(int, http.ResponseWriter) bool { wait(); return true },
			}))
			mustOffer(t, first.subject, "a")
			first.waitCalls(t, 1) // by itself, and again until it is taken
			for _, body := range []string{"b", "c", "d"} {
				mustOffer(t, first.subject, body)
			}
			open.Store(true)
			<-inFlight // a
			answer <- struct{}{}
			<-inFlight // b with c and d
			var ending sync.WaitGroup
			ending.Go(func() { _ = first.Shutdown(t.Context()) })
			time.Sleep(100 * time.Millisecond) // else the queue has time to skip them after all
			close(answer)
			ending.Wait()
			if diff := cmp.Diff([]string{"a", "b", "c", "d"}, first.taken()); diff != "" {
				t.Errorf("taken of the first process (-want +got):\n%s", diff)
			}

			second := m.store(t, stored, script{})
			mustOffer(t, second.subject, "f")
			second.wait(t, "f")
			wantEmpty(t, second, stored)
			if diff := cmp.Diff([]string{"f"}, second.taken()); diff != "" {
				t.Errorf("taken of the second process (-want +got):\n%s", diff)
			}
			wantStats(t, second.Stats, Stats{Offered: 1, Sent: 1})
		})
	}
}

// TestJoinedAnswers: what a server says to several requests that it was sent as one holds for each item of
// them. What is sent again is sent together.
func TestJoinedAnswers(t *testing.T) {
	for _, tt := range []struct {
		name     string
		grpc     grpcAnswer
		http     httpAnswer
		want     Stats
		requests [][]string
	}{
		{
			name: "partial success",
			grpc: func(_ int, p *partial) error { p.rejected = 2; return nil },
			http: func(_ int, w http.ResponseWriter) bool { respond(t, w, partial{rejected: 2}); return true },
			want: Stats{Offered: 4, Sent: 2, Rejected: 2}, requests: [][]string{{"a"}, {"b", "c", "d"}},
		},
		{
			name: "RESOURCE_EXHAUSTED with RetryInfo, 429",
			grpc: func(int, *partial) error { return withRetryInfo(codes.ResourceExhausted, 10*time.Millisecond) },
			http: func(_ int, w http.ResponseWriter) bool { withRetryAfter(429, "")(w); return false },
			want: Stats{Offered: 4, Sent: 4}, requests: [][]string{{"a"}, {"b", "c", "d"}, {"b", "c", "d"}},
		},
		{
			name: "INVALID_ARGUMENT, 400",
			grpc: func(int, *partial) error { return status.Error(codes.InvalidArgument, "") },
			http: func(_ int, w http.ResponseWriter) bool { withRetryAfter(400, "")(w); return false },
			want: Stats{Offered: 4, Sent: 1, Dropped: 3}, requests: [][]string{{"a"}, {"b", "c", "d"}},
		},
	} {
		for _, m := range makers {
			t.Run(tt.name+"/"+m.name, func(t *testing.T) {
				var open atomic.Bool
				stored := newMemory()
				d := m.store(t, stored, openWhen(&open, script{ // the second request is the one that matters
					grpc: func(call int, p *partial) error {
						if call == 1 {
							return tt.grpc(call, p)
						}
						return nil
					},
					http: func(call int, w http.ResponseWriter) bool { return call != 1 || tt.http(call, w) },
				}))
				mustOffer(t, d.subject, "a")
				d.waitCalls(t, 1) // by itself, and again until it is taken
				for _, body := range []string{"b", "c", "d"} {
					mustOffer(t, d.subject, body)
				}
				open.Store(true)
				wantStats(t, d.Stats, tt.want)
				wantEmpty(t, d, stored)
				calls := d.all()
				var got [][]string
				for _, a := range calls[len(calls)-len(tt.requests):] {
					got = append(got, a.bodies)
				}
				if diff := cmp.Diff(tt.requests, got); diff != "" {
					t.Errorf("requests (-want +got):\n%s", diff)
				}
			})
		}
	}
}

// TestNotReadAgain: a request that does not wait is not read from storage, nor is a large one that comes
// next. Storage has them all the same until they are sent.
func TestNotReadAgain(t *testing.T) {
	for _, m := range makers {
		t.Run(m.name, func(t *testing.T) {
			var open atomic.Bool
			stored := newMemory()
			d := m.store(t, stored, openWhen(&open, busyAfter(math.MaxInt)))
			mustOffer(t, d.subject, "a")
			d.waitCalls(t, 1)
			large := strings.Repeat("b", largeRequest)
			mustOffer(t, d.subject, large)
			mustOffer(t, d.subject, "c")
			killed := stored.copy()
			open.Store(true)
			d.wait(t, "a", large, "c")
			mustOffer(t, d.subject, "d")
			d.wait(t, "a", large, "c", "d")
			wantStats(t, d.Stats, Stats{Offered: 4, Sent: 4})
			wantEmpty(t, d, stored)
			if diff := cmp.Diff([]string{"2"}, stored.read); diff != "" {
				t.Errorf("read (-want +got):\n%s", diff)
			}

			next := m.store(t, killed, script{})
			next.wait(t, "a", large, "c")
			wantEmpty(t, next, killed)
		})
	}
}

// standing is storage that can stand still, as a disk that does not answer.
type standing struct {
	*memory
	still   atomic.Bool
	release chan struct{}
}

func (s *standing) GetClient(context.Context, component.Kind, component.ID, string) (storage.Client, error) {
	return s, nil
}

func (s *standing) Batch(ctx context.Context, operations ...*storage.Operation) error {
	if s.still.Load() {
		<-s.release
	}
	return s.memory.Batch(ctx, operations...)
}

// TestStorageStandsStill: Shutdown does not wait for it longer than it says.
func TestStorageStandsStill(t *testing.T) {
	disk := component.MustNewID("disk")
	for _, m := range eachTransport {
		t.Run(m.name, func(t *testing.T) {
			d := m.deploy(t, settings(), busyAfter(0), func(queue *queueConfig, _ *retryConfig) { queue.Get().StorageID = &disk })
			stored := &standing{memory: newMemory(), release: make(chan struct{})}
			if err := d.Start(t.Context(), host{disk: stored}); err != nil {
				t.Fatal(err)
			}
			mustOffer(t, d.subject, "a")
			d.waitCalls(t, 1)
			stored.still.Store(true)
			var offering sync.WaitGroup
			offering.Go(func() { _ = d.offer(t.Context(), "b") })
			eventually(t, func() bool { return d.Stats().Offered == 2 })
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			if err := d.Shutdown(ctx); err == nil || !strings.HasSuffix(err.Error(), ": storage does not answer: context canceled") {
				t.Errorf("got %v", err)
			}
			wantStats(t, d.Stats, Stats{Offered: 2, Queued: 2})
			close(stored.release)
			offering.Wait()
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
			// Who offered was told; to tell the log is up to him.
			if said := logs.FilterLevelExact(zapcore.DebugLevel).Len(); said != logs.Len() || logs.FilterMessageSnippet(rejecting).Len() != 1 {
				t.Errorf("logged %v, want what was refused, once, for who debugs", logs.All())
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
	read   []string // keys of requests that were there
}

var _ storage.Extension = (*memory)(nil)

// copy returns what a process finds that starts when this one is killed.
func (m *memory) copy() *memory {
	m.mu.Lock()
	defer m.mu.Unlock()
	return &memory{values: maps.Clone(m.values)}
}

func (m *memory) keys() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Sorted(maps.Keys(m.values))
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
			if _, isRequest := indexOf(op); isRequest && op.Value != nil {
				m.read = append(m.read, op.Key)
			}
		case storage.Set:
			m.values[op.Key] = slices.Clone(op.Value)
		case storage.Delete:
			delete(m.values, op.Key)
		}
	}
	return nil
}
