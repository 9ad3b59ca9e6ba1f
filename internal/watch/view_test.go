package watch

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/x/ansi"
	"go.opentelemetry.io/collector/pdata/pcommon"

	"github.com/connspan/connspan/exporter"
)

func timestamp(t time.Time) pcommon.Timestamp { return pcommon.NewTimestampFromTime(t) }

func sorted(words []string) string {
	slices.Sort(words)
	return strings.Join(words, " ")
}

// busy is a table with one of everything.
func busy() *feed {
	f := &feed{table: newTable(1000)}
	owner := func(name string, pid int, role string, more map[string]any) map[string]any {
		m := map[string]any{"process.executable.name": name, "process.pid": pid, "network.tcp.handshake.role": role}
		for k, v := range more {
			m[k] = v
		}
		return m
	}
	f.table.apply(records(
		told{kind: "open", id: "1", local: "10.1.0.7 40001", peer: "10.0.0.5 5432", attrs: owner("psql", 812, "client", map[string]any{"tcp.connection.handshake.duration": 0.00002})},
		told{kind: "open", id: "2", local: "2001:db8::1 443", peer: "2001:db8:1:2:3:4:5:6 50000", attrs: owner("nginx", 4194304, "server", map[string]any{"service.name": "shop"})},
		told{kind: "open", id: "3", local: "192.168.100.200 40003", peer: "192.168.100.201 443", attrs: owner("a\x1b[2Jb\u202e漢字", 77, "client", nil)},
		told{kind: "failed", at: 8 * time.Second, local: "127.0.0.1 40002", peer: "127.0.0.1 9", attrs: owner("curl", 9, "client", map[string]any{"tcp.connection.duration": 0.0000557, "error.type": "connection_refused"})},
		told{kind: "open", at: 100 * time.Millisecond, local: "127.0.0.1 22", peer: "127.0.0.1 50022", attrs: map[string]any{"tcp.connection.preexisting": true}},
		told{kind: "heartbeat", at: 6 * time.Second, id: "1", local: "10.1.0.7 40001", peer: "10.0.0.5 5432", attrs: owner("psql", 812, "client", map[string]any{"tcp.connection.bytes_sent": 100_000, "tcp.connection.bytes_received": 3_000_000, "tcp.connection.retransmits": 12, "tcp.connection.rtt": 0.00125})},
		told{kind: "close", at: 7 * time.Second, id: "3", local: "192.168.100.200 40003", peer: "192.168.100.201 443", attrs: owner("a\x1b[2Jb\u202e漢字", 77, "client", map[string]any{
			"tcp.connection.bytes_sent": 1, "tcp.connection.bytes_received": 2, "tcp.connection.retransmits": 0, "tcp.connection.duration": 7.0,
			"tcp.connection.close.reason": "fin", "tcp.connection.close.initiator": "local",
		})},
	))
	return f
}

// at gives a screen of that size, after keys.
func at(t *testing.T, width, height int, keys ...string) *screen {
	t.Helper()
	messages := &messages{}
	s := newScreen(busy(), func() (exporter.Stats, error) { return exporter.Stats{Open: 3, Opened: 12}, nil }, Filter{}, messages)
	s.Update(tea.WindowSizeMsg{Width: width, Height: height})
	s.Update(tick(begin.Add(10 * time.Second)))
	for _, key := range keys {
		s.Update(press(key))
	}
	return s
}

// press is a key by its name, or a character.
func press(key string) tea.KeyPressMsg {
	switch key {
	case "enter":
		return tea.KeyPressMsg{Code: tea.KeyEnter}
	case "esc":
		return tea.KeyPressMsg{Code: tea.KeyEscape}
	case "backspace":
		return tea.KeyPressMsg{Code: tea.KeyBackspace}
	case "left":
		return tea.KeyPressMsg{Code: tea.KeyLeft}
	case "right":
		return tea.KeyPressMsg{Code: tea.KeyRight}
	case "up":
		return tea.KeyPressMsg{Code: tea.KeyUp}
	case "down":
		return tea.KeyPressMsg{Code: tea.KeyDown}
	case "end":
		return tea.KeyPressMsg{Code: tea.KeyEnd}
	case "ctrl+c":
		return tea.KeyPressMsg{Code: 'c', Mod: tea.ModCtrl}
	}
	return tea.KeyPressMsg{Code: []rune(key)[0], Text: key}
}

func letters(s string) (keys []string) {
	for _, r := range s {
		keys = append(keys, string(r))
	}
	return keys
}

func plain(s *screen) string {
	lines := strings.Split(ansi.Strip(s.frame()), "\n")
	for i := range lines {
		lines[i] = strings.TrimRight(lines[i], " ")
	}
	return strings.Join(lines, "\n") + "\n"
}

func TestFrame(t *testing.T) {
	for name, s := range map[string]*screen{
		"80x24":  at(t, 80, 24),
		"120x40": at(t, 120, 40),
		"200x12": at(t, 200, 12),
		"40x10":  at(t, 40, 10),
		"paused": at(t, 80, 12, " ", "right", "r"),
		"filter": at(t, 80, 12, append([]string{"/"}, letters("state:opened")...)...),
		"wrong":  at(t, 80, 12, append([]string{"/"}, letters("client port:x")...)...),
		"scroll": at(t, 80, 7, "end"),
	} {
		t.Run(name, func(t *testing.T) { golden(t, name+".txt", plain(s)) })
	}
	t.Run("alarm", func(t *testing.T) {
		s := at(t, 80, 12)
		s.counters.lost, s.counters.violations, s.full, s.counters.open = 17, 1, true, 100_007
		slog.New(held{slog.NewTextHandler(io.Discard, nil), s.messages}).Warn("events were lost\x1b[2J", "lost", 17)
		s.message = s.messages.newest()[len("15:04:05 "):]
		golden(t, "alarm.txt", plain(s))
	})
	t.Run("styles", func(t *testing.T) {
		golden(t, "styles.txt", strings.ReplaceAll(at(t, 80, 10).frame(), "\x1b", "^[")+"\n")
	})
}

// TestFrameFits: no frame is larger than its screen or has a character that a terminal obeys, however
// small it is and whatever is on it.
func TestFrameFits(t *testing.T) {
	for _, keys := range [][]string{nil, {"/"}, append([]string{"/"}, letters(strings.Repeat("port:x", 30))...), {" ", "end"}} {
		s := at(t, 80, 24, keys...)
		s.message = strings.Repeat("message ", 30)
		for width := range 130 {
			for _, height := range []int{0, 1, 2, 3, 4, 5, 9, 30} {
				s.Update(tea.WindowSizeMsg{Width: width, Height: height})
				checkFrame(t, s)
			}
		}
	}
}

func checkFrame(t *testing.T, s *screen) {
	t.Helper()
	lines := strings.Split(s.frame(), "\n")
	if len(lines) > max(s.height, 1) {
		t.Fatalf("%d x %d: %d lines", s.width, s.height, len(lines))
	}
	for _, line := range lines {
		if w := ansi.StringWidth(line); w > s.width {
			t.Fatalf("%d x %d: %d columns: %q", s.width, s.height, w, line)
		}
		if strings.ContainsFunc(ansi.Strip(line), func(r rune) bool { return r < ' ' || r == '\u202e' || r == 0x7f }) {
			t.Fatalf("%d x %d: %q", s.width, s.height, line)
		}
	}
}

// TestLayout: a wider screen never shows less.
func TestLayout(t *testing.T) {
	var before [len(columns)]int
	for width := range 300 {
		var now [len(columns)]int
		sum := -1
		for _, p := range layout(width) {
			now[p.column] = p.width
			sum += p.width + 1
		}
		if sum > width {
			t.Errorf("%d columns need %d", width, sum)
		}
		for c := range now {
			if now[c] < before[c] {
				t.Errorf("%d: %s has %d, and %d before", width, columns[c].name, now[c], before[c])
			}
		}
		before = now
	}
}

func TestKeys(t *testing.T) {
	var got strings.Builder
	s := at(t, 80, 7)
	state := func(keys ...string) {
		for _, key := range keys {
			_, cmd := s.Update(press(key))
			if cmd != nil {
				fmt.Fprintf(&got, "%T ", cmd())
			}
		}
		fmt.Fprintf(&got, "%s: %d rows from %d by %s %v, filter %q, paused %v, typing %v %q %v\n", keys, len(s.rows), s.top,
			columns[s.order.column].name, s.order.descending, s.filter, s.paused, s.typing, s.typed, s.typedErr != nil)
	}
	state("right")
	state("left", "left", "left")
	state(">", "<", "r")
	state("end")
	state("down")
	state("up")
	state("g")
	state(append([]string{"/"}, letters("port:443")...)...)
	state("backspace")
	state("esc")
	state(append([]string{"/"}, append(letters("p q"), "enter")...)...)
	state("/", "q", "backspace", "backspace", "enter")
	state("esc")
	state(" ")
	s.Update(tick(begin.Add(time.Hour)))
	state("r")
	state(" ")
	s.Update(tick(begin.Add(time.Hour)))
	state("r")
	state("ctrl+c")
	state("/", "ctrl+c")
	state("esc", "q")
	golden(t, "keys.txt", got.String())
}

func TestPasteIsText(t *testing.T) {
	s := at(t, 80, 7, "/")
	s.Update(tea.PasteMsg{Content: "a\x1b[2J\nb"})
	if want := "a\ufffd[2J\ufffdb"; s.typed != want {
		t.Errorf("typed %q, want %q", s.typed, want)
	}
	s.Update(tea.PasteMsg{Content: strings.Repeat("x", maxTyped)})
	if len([]rune(s.typed)) > maxTyped {
		t.Errorf("%d characters, want at most %d", len([]rune(s.typed)), maxTyped)
	}
}

func TestErrorEndsTheScreen(t *testing.T) {
	s := at(t, 80, 24)
	s.stats = func() (exporter.Stats, error) { return exporter.Stats{}, errors.New("no counters") }
	if _, cmd := s.Update(tick(begin)); cmd == nil || cmd() != tea.Quit() || s.err == nil {
		t.Errorf("want the end, for %v", s.err)
	}
}

// TestMessages: the screen has the newest, and all that matter come out at the end, to where they belong.
func TestMessages(t *testing.T) {
	var out strings.Builder
	logger := slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}}))
	m := &messages{}
	own := slog.New(held{logger.Handler(), m})
	for i := range maxMessages + 5 {
		own.With("n", i).WithGroup("g").Warn("lost", "a\x1b", 1)
	}
	own.Info("fine")
	if !strings.HasSuffix(m.newest(), " fine") || out.Len() > 0 {
		t.Errorf("newest %q, and too early: %q", m.newest(), out.String())
	}
	m.release(t.Context(), logger)
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != maxMessages+1 || lines[0] != `level=WARN msg="messages are left out before these" left_out=5` ||
		lines[1] != `level=WARN msg=lost n=5 "g.a\x1b"=1` {
		t.Errorf("%d lines:\n%s\n%s", len(lines), lines[0], lines[1])
	}
}

func BenchmarkRefresh(b *testing.B) {
	f := &feed{table: newTable(maxConnections)}
	for i := range maxConnections {
		local := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 16), byte(i >> 8)}), uint16(i))
		f.table.add(&connection{process: "x", role: "client", local: local, peer: local, began: begin.Add(time.Duration(i * 7919 % 1000003)), duration: -1})
	}
	filter, err := ParseFilter("client port:1")
	if err != nil {
		b.Fatal(err)
	}
	for name, filter := range map[string]Filter{"all": {}, "filter": filter} {
		b.Run(name, func(b *testing.B) {
			s := newScreen(f, func() (exporter.Stats, error) { return exporter.Stats{}, nil }, filter, &messages{})
			s.Update(tea.WindowSizeMsg{Width: 120, Height: 40})
			b.ReportAllocs()
			for b.Loop() {
				s.Update(tick(begin))
				s.frame()
			}
		})
	}
}
