package watch

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/collector/pdata/plog"
)

var begin = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// told is a record; at is since begin.
type told struct {
	kind        string
	at          time.Duration
	id          string
	local, peer string
	attrs       map[string]any
}

func records(all ...told) plog.Logs {
	ld := plog.NewLogs()
	for _, r := range all {
		rl := ld.ResourceLogs().AppendEmpty()
		lr := rl.ScopeLogs().AppendEmpty().LogRecords().AppendEmpty()
		lr.SetEventName("tcp.connection." + r.kind)
		lr.SetTimestamp(timestamp(begin.Add(r.at)))
		m := lr.Attributes()
		for _, end := range []struct{ name, text string }{{"local", r.local}, {"peer", r.peer}} {
			addr, port, _ := strings.Cut(end.text, " ")
			var n int64
			_, _ = fmt.Sscan(port, &n)
			m.PutStr("network."+end.name+".address", addr)
			m.PutInt("network."+end.name+".port", n)
		}
		if r.id != "" {
			m.PutStr("tcp.connection.id", r.id)
		}
		for name, value := range r.attrs {
			if name == "service.name" {
				_ = rl.Resource().Attributes().PutEmpty(name).FromRaw(value)
			} else if err := m.PutEmpty(name).FromRaw(value); err != nil {
				panic(err)
			}
		}
	}
	return ld
}

// list gives what is in the table, in order of appearance.
func (t *table) list() (lines []string) {
	all := t.appendTo(nil)
	slices.SortFunc(all, func(a, b connection) int { return int(a.serial) - int(b.serial) })
	for _, c := range all {
		lines = append(lines, fmt.Sprintf("%s %s %s sent %s rate %s", c.state, c.local, elapsed(c.age(begin.Add(10*time.Second))), octets(c.size(c.sent)), octets(c.rate)))
	}
	return lines
}

const a, b, server = "10.0.0.1 1111", "10.0.0.2 2222", "10.0.0.9 80"

func totalsOf(sent, received, retransmits int) map[string]any {
	return map[string]any{"tcp.connection.bytes_sent": sent, "tcp.connection.bytes_received": received, "tcp.connection.retransmits": retransmits}
}

func TestTable(t *testing.T) {
	opened := told{kind: "open", at: time.Second, id: "1", local: a, peer: server, attrs: map[string]any{"tcp.connection.handshake.duration": 0.5}}
	for name, tt := range map[string]struct {
		records []told
		want    []string
	}{
		"open": {[]told{opened}, []string{"opened 10.0.0.1:1111 9s sent 0 rate -"}},
		"heartbeats": {
			[]told{
				opened,
				{kind: "heartbeat", at: 2 * time.Second, id: "1", local: a, peer: server, attrs: totalsOf(500, 100, 0)},
				{kind: "heartbeat", at: 4 * time.Second, id: "1", local: a, peer: server, attrs: totalsOf(700, 200, 0)},
			},
			[]string{"opened 10.0.0.1:1111 9s sent 700 rate 150"},
		},
		"close": {
			[]told{opened, {kind: "close", at: 3 * time.Second, id: "1", local: a, peer: server, attrs: map[string]any{
				"tcp.connection.bytes_sent": 5, "tcp.connection.bytes_received": 6, "tcp.connection.retransmits": 0, "tcp.connection.duration": 2.5,
			}}},
			[]string{"closed 10.0.0.1:1111 2s sent 5 rate -"},
		},
		"close of which the end was lost keeps the totals": {
			[]told{
				opened,
				{kind: "heartbeat", at: 2 * time.Second, id: "1", local: a, peer: server, attrs: totalsOf(500, 100, 0)},
				{kind: "close", at: 3 * time.Second, id: "1", local: a, peer: server, attrs: map[string]any{"tcp.connection.synthesized": true}},
			},
			[]string{"closed 10.0.0.1:1111 - sent 500 rate -"},
		},
		"failed":           {[]told{{kind: "failed", local: a, peer: server, attrs: map[string]any{"tcp.connection.duration": 0.25}}}, []string{"failed 10.0.0.1:1111 250ms sent - rate -"}},
		"close of unknown": {[]told{{kind: "close", id: "7", local: a, peer: server}}, []string{"closed 10.0.0.1:1111 - sent - rate -"}},
		"preexisting": {
			[]told{{kind: "open", at: time.Second, id: "1", local: a, peer: server, attrs: map[string]any{"tcp.connection.preexisting": true}}},
			[]string{"opened 10.0.0.1:1111 - sent - rate -"},
		},
		"heartbeat of unknown": {
			[]told{{kind: "heartbeat", at: 5 * time.Second, local: a, peer: server, attrs: map[string]any{"tcp.connection.duration": 3.0, "tcp.connection.bytes_sent": 2048}}},
			[]string{"opened 10.0.0.1:1111 8s sent 2.00K rate -"},
		},
		"addresses used again": {
			[]told{
				opened,
				{kind: "close", at: 2 * time.Second, id: "1", local: a, peer: server, attrs: map[string]any{"tcp.connection.duration": 1.5}},
				{kind: "open", at: 3 * time.Second, id: "2", local: a, peer: server},
			},
			[]string{"closed 10.0.0.1:1111 1s sent 0 rate -", "opened 10.0.0.1:1111 7s sent 0 rate -"},
		},
		"addresses used again, in one batch by another process": {
			[]told{
				opened,
				{kind: "open", at: 3 * time.Second, id: "2", local: a, peer: server},
				{kind: "close", at: 2 * time.Second, id: "1", local: a, peer: server, attrs: map[string]any{"tcp.connection.duration": 1.5}},
			},
			[]string{"closed 10.0.0.1:1111 1s sent 0 rate -", "opened 10.0.0.1:1111 7s sent 0 rate -"},
		},
		"late end of an earlier one": {
			[]told{
				{kind: "open", at: 3 * time.Second, id: "2", local: a, peer: server},
				{kind: "close", at: 4 * time.Second, id: "1", local: a, peer: server},
			},
			[]string{"opened 10.0.0.1:1111 7s sent 0 rate -", "closed 10.0.0.1:1111 - sent - rate -"},
		},
		"both ends": {
			[]told{opened, {kind: "open", at: time.Second, id: "1", local: server, peer: a}},
			[]string{"opened 10.0.0.1:1111 9s sent 0 rate -", "opened 10.0.0.9:80 9s sent 0 rate -"},
		},
		"another network namespace": {
			[]told{opened, {kind: "open", at: 2 * time.Second, local: a, peer: server, attrs: map[string]any{"connspan.netns.inode": 7}}},
			[]string{"opened 10.0.0.1:1111 9s sent 0 rate -", "opened 10.0.0.1:1111 8s sent 0 rate -"},
		},
		"what is no connection":  {[]told{{kind: "else"}}, nil},
		"nothing is as expected": {[]told{{kind: "open", local: "x y", attrs: map[string]any{"process.pid": "x", "tcp.connection.rtt": "y", "tcp.connection.bytes_sent": true}}}, []string{"opened invalid AddrPort 10s sent 0 rate -"}},
	} {
		t.Run(name, func(t *testing.T) {
			table := newTable(10)
			table.apply(records(tt.records...))
			if diff := cmp.Diff(tt.want, table.list()); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestTableExpires(t *testing.T) {
	table := newTable(10)
	table.apply(records(
		told{kind: "open", local: b, peer: server},
		told{kind: "failed", at: time.Second, local: a, peer: server},
		told{kind: "failed", at: 3 * time.Second, local: a, peer: server},
	))
	for _, tt := range []struct {
		now  time.Duration
		want int
	}{{time.Second, 3}, {time.Second + linger, 3}, {time.Second + linger + 1, 2}, {3*time.Second + linger + 1, 1}, {time.Hour, 1}} {
		table.expire(begin.Add(tt.now))
		if got := len(table.list()); got != tt.want {
			t.Errorf("after %v: %d connections, want %d", tt.now, got, tt.want)
		}
	}
}

// TestTableIsBounded: a thousand open connections do not fit into ten, which know that there are more;
// when there is room again, a heartbeat takes it. What has ended gives way to what is open.
func TestTableIsBounded(t *testing.T) {
	table := newTable(10)
	for i := range 20 {
		table.apply(records(told{kind: "failed", local: fmt.Sprint("10.0.0.3 ", i), peer: server}))
	}
	if got := table.list(); len(got) != 10 || !strings.Contains(got[0], ":10 ") || table.full() {
		t.Errorf("of 20 that have failed, want the last 10, and room: %q, %v", got, table.full())
	}
	for i := range 1000 {
		table.apply(records(told{kind: "open", at: time.Second, local: fmt.Sprint("10.0.0.1 ", i), peer: server}))
	}
	if got := table.list(); len(got) != 10 || strings.Contains(strings.Join(got, ""), "failed") || !table.full() {
		t.Errorf("of 1000 that are open, want 10 alone: %q, %v", got, table.full())
	}
	table.apply(records(
		told{kind: "heartbeat", at: 2 * time.Second, local: "10.0.0.1 999", peer: server},
		told{kind: "close", at: 3 * time.Second, local: "10.0.0.1 0", peer: server},
		told{kind: "heartbeat", at: 4 * time.Second, local: "10.0.0.1 998", peer: server},
	))
	got := strings.Join(table.list(), "\n")
	if strings.Contains(got, ":999 ") || !strings.Contains(got, ":998 ") || strings.Contains(got, ":0 ") {
		t.Errorf("want 998 in the place of 0:\n%s", got)
	}
}

// TestSortIsTotal: however the connections come, the same rows come out in the same order, and those
// that are equal in the order of appearance.
func TestSortIsTotal(t *testing.T) {
	var all []connection
	for i := range 200 {
		c := connection{serial: uint64(i), process: []string{"a", "b"}[i%2], pid: int64(i % 3), duration: -1}
		c.known, c.sent, c.rate = i%4 > 0, int64(i%5), float64(i%6)-1
		all = append(all, c)
	}
	random := rand.New(rand.NewPCG(1, 2))
	for column := range columns {
		for _, descending := range []bool{false, true} {
			o := order{column, descending}
			var want []uint64
			for range 5 {
				random.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
				rows := make([]*connection, len(all))
				for i := range all {
					rows[i] = &all[i]
				}
				o.sort(rows, begin)
				var got []uint64
				for i, c := range rows {
					got = append(got, c.serial)
					if i == 0 {
						continue
					}
					switch n := columns[column].compare(rows[i-1], c, begin); {
					case n == 0 && rows[i-1].serial > c.serial, n > 0 && !descending, n < 0 && descending:
						t.Fatalf("%s, descending %v: %+v is before %+v", columns[column].name, descending, rows[i-1], c)
					}
				}
				if want == nil {
					want = got
				}
				if diff := cmp.Diff(want, got); diff != "" {
					t.Fatalf("%s, descending %v: another order:\n%s", columns[column].name, descending, diff)
				}
			}
		}
	}
}

func TestRates(t *testing.T) {
	var r rates
	var got []string
	for i, n := range []uint64{10, 10, 14, 14, 14, 14, 14, 14, 20} {
		r.add(begin.Add(time.Duration(i)*time.Second), counters{opened: n})
		got = append(got, perSecond(r.opened))
	}
	want := []string{"0", "0", "2.0", "1.3", "1.3", "0", "0", "0", "2.0"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestFormat(t *testing.T) {
	var got []string
	for _, d := range []time.Duration{-1, 0, 999, 62_640, 1_230_000, 18_249_999, time.Second, 59 * time.Second, 3599 * time.Second, 31*time.Hour + 250*time.Second, 110 * time.Hour, 3000 * time.Hour} {
		got = append(got, span(d))
	}
	for _, n := range []float64{-1, 0, 999.4, 999.5, 1500, 31.2 * 1024 * 1024, 1 << 62} {
		got = append(got, octets(n))
	}
	want := strings.Fields("- 0s 999ns 62.6µs 1.23ms 18.2ms 1s 59s 59m59s 31h4m 4d14h 125d - 0 999 0.98K 1.46K 31.2M 4.00E")
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
