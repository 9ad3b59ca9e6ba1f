package telemetry

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"sync"
	"time"

	"go.opentelemetry.io/collector/component/componentstatus"

	"github.com/connspan/connspan/exporter"
)

const (
	// watchEvery is how often the totals are looked at, beside each time that /healthz is asked for: what
	// that costs is most of what an idle agent costs. It is less than patience, or what has come since
	// would look as if it had been lying there.
	watchEvery = 4 * time.Second
	// patience is how long events may lie in the rings: a round of reading is over in far less.
	patience = 5 * time.Second
	// recently is how long something that happened once is told.
	recently = time.Minute
	// maxLag is how old the newest event may be of which it is known that no older one can follow.
	maxLag = time.Second
	// maxFull is how full an exporter's queue, or the storage of all, may be.
	maxFull = 0.8
)

// The values of status, as /healthz tells it. Degraded is answered with 200 like ok: a restart would
// help neither the kernel nor a server that is down, and would lose what waits in memory.
const (
	statusStarting = "starting"
	statusOK       = "ok"
	statusDegraded = "degraded"
	statusStopping = "stopping"
)

// health is what /healthz knows. It is safe for concurrent use, and never waits for the tracer.
type health struct {
	mu        sync.Mutex
	status    string // without statusDegraded, which answer finds
	exporters map[string]error
	senders   senders
	stats     exporter.Stats
	moved     time.Time // when the rings were last seen to be read, or empty
	lost      growth
	corrupt   growth
	refused   growth
	givenUp   growth
}

// senders is what the exporters tell of themselves as metrics.
type senders struct {
	queues  []queue
	storage float64 // how full it is
	refused uint64  // items that were not taken
	givenUp uint64  // items that were taken and not delivered
}

// queue is how full the queue of an exporter is.
type queue struct {
	exporter, signal string
	full             float64 // 1: nothing more fits
}

// growth is when a total was last seen to have grown.
type growth struct {
	total uint64
	at    time.Time
}

func (g *growth) see(total uint64, now time.Time) {
	if total > g.total {
		g.total, g.at = total, now
	}
}

func newHealth() *health { return &health{status: statusStarting, exporters: map[string]error{}} }

// report takes an exporter's word on how it is.
func (h *health) report(name string, event *componentstatus.Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch event.Status() {
	case componentstatus.StatusRecoverableError, componentstatus.StatusPermanentError, componentstatus.StatusFatalError:
		h.exporters[name] = event.Err()
	case componentstatus.StatusOK:
		delete(h.exporters, name)
	}
}

// see takes the totals of now.
func (h *health) see(stats exporter.Stats, senders senders, now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if stats.Read != h.stats.Read || unread(&stats) == 0 {
		h.moved = now
	}
	h.stats, h.senders = stats, senders
	if stats.Running { // else it is still taking in what was open before
		h.status = statusOK
	}
	h.lost.see(stats.Lost+stats.Unseen+stats.Malformed, now)
	h.corrupt.see(stats.Corrupt, now)
	h.refused.see(senders.refused, now)
	h.givenUp.see(senders.givenUp, now)
}

// unread is how many events lie in the rings. A corrupt one may have taken some with it.
func unread(s *exporter.Stats) uint64 {
	var submitted uint64
	for _, c := range s.CPUs {
		submitted += c.Submitted
	}
	if s.Corrupt > 0 || submitted < s.Read {
		return 0
	}
	return submitted - s.Read
}

func (h *health) stop() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.status = statusStopping
}

// answer is the body of /healthz.
type answer struct {
	Status  string   `json:"status"`
	Reasons []string `json:"reasons"`
}

func (h *health) answer(now time.Time) answer {
	h.mu.Lock()
	defer h.mu.Unlock()
	a := answer{Status: h.status, Reasons: []string{}}
	if h.status != statusOK {
		return a
	}
	for _, reasons := range [][]string{h.ofTracer(now), h.ofLosses(now), h.ofExporters()} {
		a.Reasons = append(a.Reasons, reasons...)
	}
	if len(a.Reasons) > 0 {
		a.Status = statusDegraded
	}
	return a
}

func (h *health) ofTracer(now time.Time) (reasons []string) {
	if idle := now.Sub(h.moved); idle > patience {
		reasons = append(reasons, fmt.Sprintf("rings not read for %v", idle.Round(time.Second)))
	}
	if lag := h.stats.WatermarkLag; lag > maxLag {
		reasons = append(reasons, fmt.Sprintf("events wait for a CPU that sleeps: watermark %v behind", lag.Round(10*time.Millisecond)))
	}
	if n := h.stats.Violations; n > 0 {
		reasons = append(reasons, fmt.Sprintf("order violated: %d events", n))
	}
	return reasons
}

// ofLosses tells what has been lost lately.
func (h *health) ofLosses(now time.Time) (reasons []string) {
	for _, g := range []struct {
		what string
		growth
	}{
		{"events lost", h.lost},
		{"rings given up", h.corrupt},
		{"records refused by an exporter", h.refused},
		{"records given up by an exporter", h.givenUp},
	} {
		if g.total > 0 && now.Sub(g.at) < recently {
			reasons = append(reasons, fmt.Sprintf("%s: %d in all, the last %v ago", g.what, g.total, now.Sub(g.at).Round(time.Second)))
		}
	}
	return reasons
}

func (h *health) ofExporters() (reasons []string) {
	for _, name := range slices.Sorted(maps.Keys(h.exporters)) {
		reasons = append(reasons, fmt.Sprintf("exporter %s: %v", name, h.exporters[name]))
	}
	for _, q := range h.senders.queues {
		if q.full > maxFull {
			reasons = append(reasons, fmt.Sprintf("exporter %s (%s): queue %.0f%% full", q.exporter, q.signal, 100*q.full))
		}
	}
	if full := h.senders.storage; full > maxFull {
		reasons = append(reasons, fmt.Sprintf("storage of the queues %.0f%% full", 100*full))
	}
	return reasons
}

// ServeHTTP answers /healthz.
func (h *health) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	a := h.answer(time.Now())
	w.Header().Set("Content-Type", "application/json")
	if a.Status == statusStarting || a.Status == statusStopping {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	_ = json.NewEncoder(w).Encode(a) // the caller has gone, if anything
}
