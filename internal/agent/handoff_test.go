package agent

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/collector/component"
	xstorage "go.opentelemetry.io/collector/extension/xextension/storage"
	"go.opentelemetry.io/collector/pdata/plog"

	"github.com/connspan/connspan/exporter/otlp"
	"github.com/connspan/connspan/internal/telemetry"
)

// A test's batch is its number of items.
func startHandOff(pass func(int)) *handOff[int] {
	h := newHandOff(func(batch int) int { return batch }, pass)
	h.start()
	return h
}

// TestHandOff: who offers is not blocked by what takes the batches, which gets them in order.
func TestHandOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got []int
		gate := make(chan struct{})
		h := startHandOff(func(batch int) {
			<-gate
			got = append(got, batch)
		})
		var refused []int
		for _, batch := range []int{10_000, 9_000, 1_000, 1} {
			if err := h.offer(batch); errors.Is(err, errHandOffFull) {
				refused = append(refused, batch)
			} else if err != nil {
				t.Error(err)
			}
		}
		close(gate)
		synctest.Wait()
		for _, batch := range []int{handOffItems + 1, 2} { // a batch alone may be larger
			if err := h.offer(batch); err != nil {
				t.Error(err)
			}
			synctest.Wait()
		}
		if err := h.close(t.Context()); err != nil {
			t.Error(err)
		}
		if err := h.offer(3); !errors.Is(err, os.ErrClosed) {
			t.Errorf("closed, it says %v", err)
		}
		if d := cmp.Diff([]int{10_000, 9_000, 1_000, handOffItems + 1, 2}, got); d != "" {
			t.Errorf("passed:\n%s", d)
		}
		if d := cmp.Diff([]int{1}, refused); d != "" {
			t.Errorf("refused:\n%s", d)
		}
	})
}

// TestHandOffClose: what waits is passed, as long as there is time.
func TestHandOffClose(t *testing.T) {
	for name, test := range map[string]struct {
		takes time.Duration // for a batch
		want  string
	}{
		"fast": {time.Second, "<nil>"},
		"slow": {2 * time.Second, "handing over to a queue in files: 1 items wait for the disk: context deadline exceeded"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := startHandOff(func(int) { time.Sleep(test.takes) })
				for range 3 {
					if err := h.offer(1); err != nil {
						t.Error(err)
					}
				}
				ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
				defer cancel()
				if err := fmt.Sprint(h.close(ctx)); err != test.want {
					t.Errorf("got %s, want %s", err, test.want)
				}
				<-h.done
			})
		})
	}
	if err := newHandOff(func(int) int { return 1 }, func(int) {}).close(t.Context()); err != nil {
		t.Errorf("never started: %v", err)
	}
}

// disk is storage that can stand still.
type disk struct {
	xstorage.Extension
	still sync.RWMutex // held for writing while it does
}

func (d *disk) GetClient(ctx context.Context, kind component.Kind, id component.ID, name string) (xstorage.Client, error) {
	client, err := d.Extension.GetClient(ctx, kind, id, name)
	return diskClient{client, d}, err
}

type diskClient struct {
	xstorage.Client
	disk *disk
}

func (c diskClient) Batch(ctx context.Context, ops ...*xstorage.Operation) error {
	c.disk.still.RLock()
	defer c.disk.still.RUnlock()
	return c.Client.Batch(ctx, ops...)
}

// diskHost has a disk for the storage.
type diskHost struct {
	host
	disk *disk
}

func (h diskHost) GetExtensions() map[component.ID]component.Component {
	return map[component.ID]component.Component{component.NewID(typeStorage): h.disk}
}

// TestDiskThatStandsStill: nobody waits for it, neither the tracer nor who scrapes; what is refused
// meanwhile is counted, and the rest arrives.
func TestDiskThatStandsStill(t *testing.T) {
	server, address, serve := serveOTLP(t)
	serve()
	own, err := telemetry.Start(telemetry.Config{Address: "127.0.0.1:0"}, "", true)
	if err != nil {
		t.Fatal(err)
	}
	defer own.Close()
	cfg := mustLoad(t, "metrics: {interval: 0s}\ntraces: {sample_ratio: 0}\nstorage: {directory: "+filepath.Join(t.TempDir(), "queues")+
		"}\nexporters: {otlp: {endpoint: '"+address+"', tls: {insecure: true}}}")
	var stderr output
	e, err := newExporters("", cfg, own, newLogger("warn", &stderr), os.Stdout, func(error) {})
	if err != nil {
		t.Fatal(err)
	}
	if err := e.storage.Start(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	disk := &disk{Extension: e.storage}
	s := e.all[0].senders[0]
	if err := s.Start(t.Context(), diskHost{host{e.all[0], s.signal}, disk}); err != nil {
		t.Fatal(err)
	}
	logs := e.consumers().Logs[0]

	disk.still.Lock()
	const records, batches = 1000, handOffItems/1000 + 5
	refused := 0
	for range batches {
		ld := plog.NewLogs()
		all := ld.ResourceLogs().AppendEmpty().ScopeLogs().AppendEmpty().LogRecords()
		for range records {
			all.AppendEmpty()
		}
		if err := logs.ConsumeLogs(t.Context(), ld); errors.Is(err, errHandOffFull) {
			refused++
		} else if err != nil {
			t.Error(err)
		}
	}
	if refused != 5 {
		t.Errorf("%d of %d batches refused, want 5", refused, batches)
	}
	scrape := scrapeText(t, own.Address())
	for _, want := range []string{
		`connspan_exporter_offered_total{exporter="otlp",otelcol_signal="logs"} 25000`,
		`connspan_exporter_refused_total{cause="hand_off_full",exporter="otlp",otelcol_signal="logs"} 5000`,
		`connspan_exporter_queued{exporter="otlp",otelcol_signal="logs"} 20000`,
	} {
		if !strings.Contains(scrape, want+"\n") {
			t.Errorf("no %s in:\n%s", want, scrape)
		}
	}
	disk.still.Unlock()
	eventually(t, func() bool { _, n := server.told(); return n == handOffItems })
	e.shutdown()
	want := telemetry.Items{
		Offered: batches * records,
		Refused: map[string]int64{causeHandOffFull: 5000, causeQueueFull: 0, causeNoRoom: 0, causeNotRunning: 0, causeOther: 0},
		Outcome: &otlp.Stats{Offered: handOffItems, Sent: handOffItems},
	}
	if d := cmp.Diff(want, s.items()); d != "" || want.Queued() != 0 {
		t.Errorf("items (-want +got):\n%s", d)
	}
}

func scrapeText(t *testing.T, address string) string {
	t.Helper()
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 20 * time.Second}
	response, err := client.Get("http://" + address + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	var b strings.Builder
	if err := response.Write(&b); err != nil || response.StatusCode != http.StatusOK {
		t.Fatal(response.Status, err)
	}
	return b.String()
}
