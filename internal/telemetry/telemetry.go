package telemetry

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/otlptranslator"
	"go.opentelemetry.io/collector/component/componentstatus"
	"go.opentelemetry.io/otel/attribute"
	otelprometheus "go.opentelemetry.io/otel/exporters/prometheus"
	"go.opentelemetry.io/otel/metric"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/sdk/resource"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"golang.org/x/net/netutil"

	"github.com/connspan/connspan/exporter"
)

// scopeName is the instrumentation scope of what the program tells of itself.
const scopeName = "github.com/connspan/connspan/internal/telemetry"

// What exporterhelper calls the metrics of a queue.
const (
	queueSize     = "otelcol_exporter_queue_size"
	queueCapacity = "otelcol_exporter_queue_capacity"
)

const (
	// maxConnections bounds the connections to the server: whoever may reach it cannot use up the
	// program's file descriptors.
	maxConnections = 64
	// maxScrapes bounds the scrapes at a time.
	maxScrapes = 4
	// maxHeader bounds a request's header, in bytes.
	maxHeader = 16 << 10

	headerTimeout = 5 * time.Second
	scrapeTimeout = 10 * time.Second
	writeTimeout  = 30 * time.Second
	idleTimeout   = 2 * time.Minute // more than the usual time between two scrapes
	closeTimeout  = time.Second
)

// Telemetry is what the program tells of itself, and the server that tells it. Its methods may be
// called concurrently.
type Telemetry struct {
	cfg      Config
	resource *resource.Resource
	meters   *sdkmetric.MeterProvider
	reader   *sdkmetric.ManualReader
	health   *health
	address  string
	server   *http.Server
	serving  sync.WaitGroup

	looking sync.Mutex
	stats   func() (exporter.Stats, error) // of the tracer, while it is watched
}

// Start serves /metrics and /healthz, which says that the program is starting, unless cfg has no
// address. stored says that the exporters' queues are in files; see [Telemetry.ObserveStorage]. The
// error names the key and why its address cannot be served on.
func Start(cfg Config, version string, stored bool) (*Telemetry, error) {
	t := &Telemetry{cfg: cfg, health: newHealth(), reader: sdkmetric.NewManualReader()}
	var err error
	if t.resource, err = newResource(version); err != nil {
		return nil, err
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	scraped, err := otelprometheus.New(otelprometheus.WithRegisterer(registry), otelprometheus.WithoutScopeInfo(),
		otelprometheus.WithTranslationStrategy(otlptranslator.UnderscoreEscapingWithSuffixes))
	if err != nil {
		return nil, fmt.Errorf("creating the exporter of metrics: %w", err)
	}
	t.meters = sdkmetric.NewMeterProvider(sdkmetric.WithResource(t.resource),
		sdkmetric.WithReader(scraped), sdkmetric.WithReader(t.reader), sdkmetric.WithView(leaveOut(stored)))
	if cfg.Address == "" {
		return t, nil
	}
	return t, t.serve(registry)
}

// newResource describes this program. What the environment says goes over it.
func newResource(version string) (*resource.Resource, error) {
	res, err := resource.New(context.Background(),
		resource.WithHost(),
		resource.WithAttributes(semconv.ServiceName("connspan"), semconv.ServiceVersion(version), semconv.ServiceInstanceID(uuid.NewString())),
		resource.WithFromEnv())
	if err != nil && !errors.Is(err, resource.ErrPartialResource) { // the exporter tells of that
		return nil, fmt.Errorf("finding out about this program: %w", err)
	}
	return res, nil
}

// leaveOut is the view that drops what a Collector drops too, unless told to be detailed: the
// instruments of the HTTP and gRPC clients, and the sizes of requests, those in bytes because each
// request would be encoded once more to measure it. Of queues in files it drops the sizes as well: to
// tell them the queue waits for the disk, and what bounds the queues is the size of the storage.
func leaveOut(stored bool) sdkmetric.View {
	return func(i sdkmetric.Instrument) (sdkmetric.Stream, bool) {
		drop := strings.HasPrefix(i.Scope.Name, "go.opentelemetry.io/contrib/") ||
			strings.HasPrefix(i.Name, "otelcol_exporter_enqueue_size") || i.Name == "otelcol_exporter_queue_batch_send_size_bytes" ||
			stored && (i.Name == queueSize || i.Name == queueCapacity)
		return sdkmetric.Stream{Aggregation: sdkmetric.AggregationDrop{}}, drop
	}
}

func (t *Telemetry) serve(registry *prometheus.Registry) error {
	listener, err := net.Listen("tcp", t.cfg.Address)
	if err != nil {
		return errors.Join(
			fmt.Errorf(`telemetry::address: %w; want one that is free, or "" for none`, err),
			t.meters.Shutdown(context.Background()))
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, r *http.Request) {
		t.look()
		t.health.ServeHTTP(w, r)
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{Timeout: scrapeTimeout, MaxRequestsInFlight: maxScrapes}))
	t.address = listener.Addr().String()
	t.server = &http.Server{
		Handler:           mux,
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       headerTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
	}
	t.serving.Go(func() { _ = t.server.Serve(netutil.LimitListener(listener, maxConnections)) })
	return nil
}

// Address is where the server listens, host:port; empty when there is none.
func (t *Telemetry) Address() string { return t.address }

// MeterProvider makes the instruments that /metrics shows.
func (t *Telemetry) MeterProvider() metric.MeterProvider { return t.meters }

// Report has /healthz say how the exporter with this name is: one that sends several signals reports on
// each under a name of its own.
func (t *Telemetry) Report(name string, event *componentstatus.Event) { t.health.report(name, event) }

// Watch looks at the totals every few seconds, and whenever /healthz is asked for, which says ok or degraded
// from then on, until ctx ends or stop is called; then it says stopping. stop returns when stats is no longer
// called.
func (t *Telemetry) Watch(ctx context.Context, stats func() (exporter.Stats, error)) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	t.watch(stats)
	var watching sync.WaitGroup
	watching.Go(func() {
		defer t.health.stop()
		defer t.watch(nil)
		tick := time.NewTicker(watchEvery)
		defer tick.Stop()
		for ctx.Err() == nil {
			t.look()
			select {
			case <-ctx.Done():
			case <-tick.C:
			}
		}
	})
	return func() {
		cancel()
		watching.Wait()
	}
}

// watch says what to look at: nothing, when stats is nil.
func (t *Telemetry) watch(stats func() (exporter.Stats, error)) {
	t.looking.Lock()
	defer t.looking.Unlock()
	t.stats = stats
}

// look takes the totals of now. Without them there is no new word, which health notices.
func (t *Telemetry) look() {
	t.looking.Lock()
	defer t.looking.Unlock()
	if t.stats == nil {
		return
	}
	s, err := t.stats()
	if err != nil {
		return
	}
	t.health.see(s, t.senders(), time.Now())
}

// senders reads what the exporters tell as metrics alone.
func (t *Telemetry) senders() (s senders) {
	var metrics metricdata.ResourceMetrics
	if err := t.reader.Collect(context.Background(), &metrics); err != nil {
		return senders{}
	}
	capacity := make(map[attribute.Distinct]int64)
	for p := range points(&metrics, queueCapacity) {
		capacity[p.Attributes.Equivalent()] = p.Value
	}
	for p := range points(&metrics, queueSize) {
		name, _ := p.Attributes.Value("exporter")
		signal, _ := p.Attributes.Value("data_type")
		if limit := capacity[p.Attributes.Equivalent()]; limit > 0 {
			s.queues = append(s.queues, queue{name.AsString(), signal.AsString(), float64(p.Value) / float64(limit)})
		}
	}
	for _, outcome := range []string{"rejected", "dropped", "given_up"} {
		s.givenUp += total(&metrics, "connspan.exporter."+outcome)
	}
	s.refused = total(&metrics, "connspan.exporter.refused")
	if limit := total(&metrics, "connspan.storage.limit"); limit > 0 {
		s.storage = float64(total(&metrics, "connspan.storage.usage")) / float64(limit)
	}
	return s
}

// total adds up the points of a metric.
func total(metrics *metricdata.ResourceMetrics, name string) (n uint64) {
	for p := range points(metrics, name) {
		n += uint64(p.Value)
	}
	return n
}

// points are those of the metric with this name.
func points(metrics *metricdata.ResourceMetrics, name string) iter.Seq[metricdata.DataPoint[int64]] {
	return func(yield func(metricdata.DataPoint[int64]) bool) {
		for _, scope := range metrics.ScopeMetrics {
			for _, m := range scope.Metrics {
				if m.Name != name {
					continue
				}
				for _, p := range pointsOf(m.Data) {
					if !yield(p) {
						return
					}
				}
			}
		}
	}
}

func pointsOf(data metricdata.Aggregation) []metricdata.DataPoint[int64] {
	switch d := data.(type) {
	case metricdata.Gauge[int64]:
		return d.DataPoints
	case metricdata.Sum[int64]:
		return d.DataPoints
	}
	return nil
}

// Close ends the server. Requests that are being answered have a second.
func (t *Telemetry) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	var err error
	if t.server != nil {
		if err = t.server.Shutdown(ctx); err != nil {
			err = t.server.Close()
		}
		t.serving.Wait()
	}
	if err = errors.Join(err, t.meters.Shutdown(ctx)); err != nil {
		return fmt.Errorf("closing the telemetry server: %w", err)
	}
	return nil
}
