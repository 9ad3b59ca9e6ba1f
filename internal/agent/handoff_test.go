package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
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
func startHandOff(pass func(int) error, refused func(int, error)) *handOff[int] {
	h := newHandOff(func(batch int) int { return batch }, pass, refused)
	h.start()
	return h
}

// TestHandOff: who offers is not blocked by what takes the batches, which gets them in order.
func TestHandOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got []int
		gate := make(chan struct{})
		var refused, late []int
		h := startHandOff(func(batch int) error {
			<-gate
			got = append(got, batch)
			if batch == 2 {
				return io.ErrShortWrite
			}
			return nil
		}, func(n int, _ error) { late = append(late, n) })
		for _, batch := range []int{handOffItems - 100, 90, 10, 1} {
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
		if lost, err := h.close(t.Context()); lost != 0 || err != nil {
			t.Errorf("lost %d: %v", lost, err)
		}
		if err := h.offer(3); !errors.Is(err, os.ErrClosed) {
			t.Errorf("closed, it says %v", err)
		}
		if d := cmp.Diff([]int{handOffItems - 100, 90, 10, handOffItems + 1, 2}, got); d != "" {
			t.Errorf("passed:\n%s", d)
		}
		if d := cmp.Diff([][]int{{1}, {2}}, [][]int{refused, late}); d != "" {
			t.Errorf("refused:\n%s", d)
		}
	})
}

// TestHandOffClose: what waits is passed, as long as there is time. The rest is lost, and counted once.
func TestHandOffClose(t *testing.T) {
	for name, test := range map[string]struct {
		takes time.Duration // for a batch
		lost  int
		want  string
	}{
		"fast": {time.Second, 0, "<nil>"},
		"slow": {2 * time.Second, 4, "handing over to a queue in files: 4 items lost: the disk has not taken it in time"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				passed, late := 0, 0
				h := startHandOff(func(batch int) error {
					time.Sleep(test.takes)
					passed += batch
					return io.ErrShortWrite
				}, func(n int, _ error) { late += n })
				for range 4 {
					if err := h.offer(2); err != nil {
						t.Error(err)
					}
				}
				ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
				defer cancel()
				for i := range 2 {
					if lost, err := h.close(ctx); i == 0 && (lost != test.lost || fmt.Sprint(err) != test.want) || i == 1 && (lost != 0 || err != nil) {
						t.Errorf("lost %d: %v; want %d: %s, once", lost, err, test.lost, test.want)
					}
				}
				<-h.done
				if want := 8 - test.lost; late != want || passed < want {
					t.Errorf("passed %d, refused %d late, want %d", passed, late, want)
				}
			})
		})
	}
	never := newHandOff(func(int) int { return 1 }, func(int) error { return nil }, func(int, error) {})
	if lost, err := never.close(t.Context()); lost != 0 || err != nil {
		t.Errorf("never started: lost %d, %v", lost, err)
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

// onDisk is an exporter of logs alone, with its queue on a disk.
type onDisk struct {
	*exporters
	*disk
	sender *sender
	stderr output
}

func startOnDisk(t *testing.T, own *telemetry.Telemetry, endpoint string) *onDisk {
	t.Helper()
	cfg := mustLoad(t, "metrics: {interval: 0s}\ntraces: {sample_ratio: 0}\nstorage: {directory: "+filepath.Join(t.TempDir(), "queues")+
		"}\nexporters: {otlp: {endpoint: '"+endpoint+"', tls: {insecure: true}}}")
	o := &onDisk{}
	var err error
	if o.exporters, err = newExporters("", cfg, own, newLogger("warn", &o.stderr), os.Stdout, func(error) {}); err != nil {
		t.Fatal(err)
	}
	if err := o.storage.Start(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	o.disk = &disk{Extension: o.storage}
	o.sender = o.all[0].senders[0]
	if err := o.sender.Start(t.Context(), diskHost{host{o.all[0], o.sender.signal}, o.disk}); err != nil {
		t.Fatal(err)
	}
	return o
}

// offer gives batches of records, and tells how many were refused.
func (o *onDisk) offer(t *testing.T, batches, records int) (refused int) {
	t.Helper()
	for range batches {
		ld := plog.NewLogs()
		all := ld.ResourceLogs().AppendEmpty().ScopeLogs().AppendEmpty().LogRecords()
		for range records {
			all.AppendEmpty()
		}
		if err := o.consumers().Logs[0].ConsumeLogs(t.Context(), ld); errors.Is(err, errHandOffFull) {
			refused++
		} else if err != nil {
			t.Error(err)
		}
	}
	return refused
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
	o := startOnDisk(t, own, address)

	o.still.Lock()
	const records, batches = 1000, handOffItems/1000 + 5
	refused := o.offer(t, batches, records)
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
	o.still.Unlock()
	eventually(t, func() bool { _, n := server.told(); return n == handOffItems })
	o.shutdown()
	o.wantItems(t, batches*records, map[string]int64{causeHandOffFull: 5 * records}, otlp.Stats{Offered: handOffItems, Sent: handOffItems})
}

// TestEndWhileTheDiskStandsStill: the program ends all the same, in time, and says what that costs.
func TestEndWhileTheDiskStandsStill(t *testing.T) {
	_, address, _ := serveOTLP(t)
	o := startOnDisk(t, startTelemetry(t), address)
	o.offer(t, 1, 500)
	eventually(t, func() bool {
		h := o.sender.feed.(*feed[plog.Logs]).queued
		h.mu.Lock()
		defer h.mu.Unlock()
		return h.waiting == 0
	})
	o.still.Lock()
	o.offer(t, 3, 1000)
	begin := time.Now()
	o.shutdown()
	if took := time.Since(begin); took < shutdownTimeout || took > shutdownTimeout+3*time.Second {
		t.Errorf("ended after %v, want %v and little more", took, shutdownTimeout)
	}
	o.wantItems(t, 3500, map[string]int64{causeNotStored: 3000}, otlp.Stats{Offered: 1500})
	said := o.stderr.String()
	for _, want := range []string{"handing over to a queue in files: 3000 items lost: the disk has not taken it in time", "storage does not answer"} {
		if strings.Count(said, want) != 1 {
			t.Errorf("want %q, once, in:\n%s", want, said)
		}
	}
	o.still.Unlock()
}

// wantItems checks what became of the items, with none for the causes that are not given.
func (o *onDisk) wantItems(t *testing.T, offered int64, refused map[string]int64, outcome otlp.Stats) {
	t.Helper()
	got := o.sender.items()
	maps.DeleteFunc(got.Refused, func(_ string, n int64) bool { return n == 0 })
	got.Outcome.Queued = 0 // of its own queue alone
	want := telemetry.Items{Offered: offered, Refused: refused, Outcome: &outcome}
	if d := cmp.Diff(want, got); d != "" {
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
