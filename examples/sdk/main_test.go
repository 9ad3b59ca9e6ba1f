package main

import (
	"bytes"
	"context"
	"fmt"
	"log"
	"regexp"
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

// TestRun: real connections come out of the program's own providers, as records and as metrics.
func TestRun(t *testing.T) {
	var out output
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- run(ctx, log.New(&out, "", 0)) }()
	for deadline := time.Now().Add(20 * time.Second); !strings.Contains(out.String(), "tracing"); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("does not trace after 20 s:\n%s", &out)
		}
	}
	pair := actor.Start(t, "pair", actor.Plan{Listen: "127.0.0.1:0", Request: 120, Reply: 5300, How: actor.ClientCloses})
	truth := pair.Report()
	pair.Cue()
	pair.Report()
	pair.Wait()
	cancel() // at once: what has happened is told all the same
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	client, server := regexp.QuoteMeta(truth.Local.String()), regexp.QuoteMeta(truth.Peer.String())
	for _, line := range []string{
		fmt.Sprintf(`(?m)^INFO tcp\.connection\.open \S+\[%d\] %s -> %s`, pair.PID(), client, server),
		fmt.Sprintf(`(?m)^INFO tcp\.connection\.close \S+\[%d\] %s -> %s .* sent=120 received=5300 fin`, pair.PID(), client, server),
		fmt.Sprintf(`(?m)^INFO tcp\.connection\.close \S+\[%d\] .* sent=5300 received=120 fin`, pair.PID()),
		`(?m)^tcp\.connection\.events\{event=tcp\.connection\.close,network\.tcp\.handshake\.role=server\} [1-9]`,
		`(?m)^tcp\.connection\.duration\{event=tcp\.connection\.close,network\.tcp\.handshake\.role=client\} [1-9]`,
		`(?m)^connspan\.connection\.closed\{\} [1-9]`,
	} {
		if !regexp.MustCompile(line).MatchString(out.String()) {
			t.Errorf("no line %s:\n%s", line, &out)
		}
	}
}
