package exporter

import (
	"math"
	"math/big"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"

	"go.opentelemetry.io/collector/pdata/pcommon"

	"github.com/connspan/connspan/internal/conn"
	"github.com/connspan/connspan/internal/event"
)

func ends(client, server uint32) (c, s *conn.Record) {
	e := event.Event{Kind: event.Closed, Role: event.Client, Flags: event.HasISN, LocalISN: client, PeerISN: server, Began: 1, Time: 2}
	f := e
	f.Role, f.LocalISN, f.PeerISN = event.Server, server, client
	return &conn.Record{Event: &e}, &conn.Record{Event: &f}
}

// TestBothEnds: two agents that have never heard of each other give the ends one trace.
func TestBothEnds(t *testing.T) {
	c, s := ends(1, 2)
	i := newIdentity(TracesConfig{SampleRatio: 1, Pairing: PairingBothEnds})
	client, server := i.of(c), i.of(s)
	if client.trace != server.trace || client.trace.IsEmpty() || server.parent != client.span || !client.parent.IsEmpty() || server.span == client.span {
		t.Errorf("client %+v, server %+v: want one trace, the client's span as the server's parent", client, server)
	}
	alone := newIdentity(TracesConfig{SampleRatio: 1, Pairing: PairingNone})
	client, server = alone.of(c), alone.of(s)
	if client.trace == server.trace || !server.parent.IsEmpty() || !client.parent.IsEmpty() {
		t.Errorf("pairing none: client %+v, server %+v: want a trace for each", client, server)
	}
	if again := alone.of(c); again != client {
		t.Errorf("%+v, then %+v, for the same end", client, again)
	}
}

// TestNoFalseJoin: other pairs of sequence numbers are other traces, also when only the roles differ.
func TestNoFalseJoin(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	i := newIdentity(TracesConfig{SampleRatio: 1, Pairing: PairingBothEnds})
	pairs := map[[2]uint32]bool{{1, 2}: true, {2, 1}: true}
	for len(pairs) < 1_000_000 {
		pairs[[2]uint32{r.Uint32(), r.Uint32()}] = true
	}
	seen := make(map[pcommon.TraceID]struct{}, len(pairs))
	for pair := range pairs {
		c, _ := ends(pair[0], pair[1])
		seen[i.of(c).trace] = struct{}{}
	}
	if len(seen) != len(pairs) {
		t.Errorf("%d traces of %d connections", len(seen), len(pairs))
	}
}

// TestUnpaired: without sequence numbers a connection has a trace of its own, the same at its end as at
// its beginning.
func TestUnpaired(t *testing.T) {
	i := newIdentity(TracesConfig{SampleRatio: 1, Pairing: PairingBothEnds})
	opened := examples()[2]
	closed := *opened
	closed.Time, closed.Ordinal, closed.BytesSent = opened.Time+5, 2, 7
	other := *opened
	other.Began++
	a, b, c := i.of(&conn.Record{Event: opened}), i.of(&conn.Record{Event: &closed}), i.of(&conn.Record{Event: &other})
	if a != b || a.trace == c.trace || !a.parent.IsEmpty() {
		t.Errorf("ids %+v, %+v and of another %+v", a, b, c)
	}
}

// TestSampling: both ends choose alike, about as many as asked for, and say with which probability.
func TestSampling(t *testing.T) {
	for _, tt := range []struct {
		ratio float64
		state string
	}{{1, ""}, {0.5, "ot=th:8"}, {0.25, "ot=th:c"}, {0.01, "ot=th:fd70a3d70a3d7"}, {0, ""}} {
		i := newIdentity(TracesConfig{SampleRatio: tt.ratio, Pairing: PairingBothEnds})
		if len(i.state) > len(tt.state)+2 || len(tt.state) > 0 && i.state[:len(tt.state)] != tt.state {
			t.Errorf("ratio %v: trace state %q, want %q", tt.ratio, i.state, tt.state)
		}
		const n = 20_000
		sampled := 0
		for isn := range uint32(n) {
			c, s := ends(isn, 7)
			client, server := i.of(c), i.of(s)
			if client.sampled != server.sampled {
				t.Fatalf("ratio %v: one end is sampled, the other not", tt.ratio)
			}
			if want := tt.ratio > 0 && randomness(client.trace) >= threshold(t, i.state); client.sampled != want {
				t.Fatalf("ratio %v: trace %s is sampled: %v, against %q", tt.ratio, client.trace, client.sampled, i.state)
			}
			if client.sampled {
				sampled++
			}
		}
		if got := float64(sampled) / n; math.Abs(got-tt.ratio) > 5*math.Sqrt(tt.ratio*(1-tt.ratio)/n) {
			t.Errorf("ratio %v: sampled %v", tt.ratio, got)
		}
	}
}

// randomness is what W3C Trace Context Level 2 takes as random in a trace id: its last 56 bits.
func randomness(id pcommon.TraceID) uint64 {
	r := new(big.Int).SetBytes(id[:])
	return r.Mod(r, new(big.Int).Lsh(big.NewInt(1), 56)).Uint64()
}

// threshold reads a trace state as OpenTelemetry has it: up to 14 hexadecimal digits, of which those at
// the end may be left out when they are 0. What is less random is not sampled.
func threshold(t *testing.T, state string) uint64 {
	t.Helper()
	if state == "" {
		return 0
	}
	digits, ok := strings.CutPrefix(state, "ot=th:")
	n, err := strconv.ParseUint((digits + "00000000000000")[:14], 16, 64)
	if !ok || len(digits) == 0 || len(digits) > 14 || err != nil {
		t.Fatalf("trace state %q, want ot=th: and 1 to 14 hexadecimal digits", state)
	}
	return n
}

// TestSpanWithoutBeginning: no span is made up for a connection that nobody saw begin.
func TestSpanWithoutBeginning(t *testing.T) {
	s := newTestSignals(t, nil)
	fill(s, examples())
	names := map[string]int{}
	for _, rs := range s.spans.take().ResourceSpans().All() {
		for _, sp := range rs.ScopeSpans().At(0).Spans().All() {
			names[sp.Name()+" "+sp.Kind().String()+" "+sp.Status().Code().String()]++
		}
	}
	want := map[string]int{"TCP connect Client Unset": 1, "TCP connect Client Error": 1, "TCP accept Server Error": 1}
	for name, n := range want {
		if names[name] != n {
			t.Errorf("spans %v, want %v", names, want)
		}
	}
	if len(names) != len(want) {
		t.Errorf("spans %v, want %v", names, want)
	}
}
