package main

import (
	"bytes"
	"context"
	"fmt"
	"log"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/connspan/connspan/internal/actor"
)

func TestMain(m *testing.M) {
	actor.Main()
	goleak.VerifyTestMain(m)
}

// output is what the example prints.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(b)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// await waits until the example has printed each text.
func (o *output) await(t *testing.T, texts ...string) {
	t.Helper()
	for _, text := range texts {
		deadline := time.Now().Add(20 * time.Second)
		for !strings.Contains(o.String(), text) {
			if time.Now().After(deadline) {
				t.Fatalf("no %q after 20 s:\n%s", text, o)
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
}

// TestRun: the example tells of real connections, and of what it has told.
func TestRun(t *testing.T) {
	var out output
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- run(ctx, log.New(&out, "", 0)) }()
	out.await(t, "tracing")
	refused := actor.Start(t, "refused", actor.Plan{Connect: "127.0.0.1:2"})
	refused.Report()
	refused.Wait()
	pair := actor.Start(t, "pair", actor.Plan{Listen: "127.0.0.1:0", Request: 120, Reply: 5300, How: actor.ClientCloses})
	truth := pair.Report()
	pair.Cue()
	pair.Report()
	pair.Wait()
	cancel() // at once: what has happened is told all the same
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	out.await(t,
		fmt.Sprintf("[%d] 127.0.0.1:2 connection_refused\n", refused.PID()),
		fmt.Sprintf("[%d] %s fin, 120 octets sent, 5300 received\n", pair.PID(), truth.Peer),
		fmt.Sprintf("[%d] %s fin, 5300 octets sent, 120 received\n", pair.PID(), truth.Local),
		"0 events lost, 0 records refused\n")
}
