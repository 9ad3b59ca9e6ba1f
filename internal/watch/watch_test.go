package watch

import (
	"bufio"
	"bytes"
	"fmt"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hinshun/vt10x"

	"github.com/connspan/connspan/internal/actor"
)

// TestWatch: the connections of a real process appear, a filter leaves those of one of its ends, a
// pause keeps what has ended, and q gives the terminal back.
func TestWatch(t *testing.T) {
	x := startTerminal(t, 120, 40, nil, mustBinary(t), "watch", "role:server", "process:watch")
	x.awaitText(`by age ▲  filter role:server process:watch`)
	holder := actor.Start(t, "hold", actor.Plan{Listen: "127.0.0.1:0", Connections: 3})
	truth := holder.Report()
	row := func(state string) string {
		return fmt.Sprintf(`%s +\S+ watch\.test\[%d\] +server +%s +127\.0\.0\.1:\d+ +`, state, holder.PID(), regexp.QuoteMeta(truth.Local.String()))
	}
	rows := func(state string) func(string) bool {
		return func(text string) bool { return len(regexp.MustCompile(row(state)).FindAllString(text, -1)) == 3 }
	}
	x.await("three connections", rows("opened"))
	if strings.Contains(x.text(), " client ") {
		t.Errorf("a client, filtered by role:server:\n%s", x.text())
	}

	x.press(fmt.Sprintf("/ peer::%d", truth.Open[1].Port()))
	x.awaitText(fmt.Sprintf(`\n1 of \d+ shown [^\n]*\n[^\n]*PEER[^\n]*\nopened [^\n]* %s +`, truth.Open[1]))
	x.press("\x1b")
	x.await("three connections again", rows("opened"))
	x.press("/\x15pid:0\r")
	x.awaitText(`\n0 of \d+ shown`)
	x.press(fmt.Sprintf("/\x15local::%d\r", truth.Local.Port()))
	x.await("the server's ends", rows("opened"))

	x.press(" ")
	x.awaitText(`PAUSED`)
	holder.Kill()
	time.Sleep(3 * lookEvery)
	if !rows("opened")(x.text()) {
		t.Errorf("a pause did not keep what there was:\n%s", x.text())
	}
	x.press(" ")
	x.await("what has ended", rows("closed"))
	x.await("nothing, after a while", func(text string) bool { return !strings.Contains(text, "watch.test") })

	x.press("q")
	x.end(0)
}

// TestWatchResizes: what is on the screen fits it, also where nearly nothing does.
func TestWatchResizes(t *testing.T) {
	x := startTerminal(t, 80, 24, nil, mustBinary(t), "watch", "process:watch.test")
	holder := actor.Start(t, "hold", actor.Plan{Listen: "127.0.0.1:0", Connections: 40})
	holder.Report()
	row := regexp.MustCompile(fmt.Sprintf(`^opened .*\[%d\]`, holder.PID()))
	full := func(rows int) func(string) bool {
		return func(text string) bool {
			lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
			head := slices.IndexFunc(lines, func(line string) bool { return strings.Contains(line, "PEER") })
			n := 0
			for _, line := range lines {
				if row.MatchString(line) {
					n++
				}
			}
			// Between head and foot, where a message may have a line.
			return len(lines) == rows && head > 0 && strings.HasPrefix(lines[rows-1], "q quit") && n > 0 && n >= rows-head-3
		}
	}
	for _, size := range []struct{ columns, rows int }{{80, 24}, {120, 40}, {40, 10}, {80, 12}} {
		x.resize(size.columns, size.rows)
		x.await(fmt.Sprintf("rows that fill %d x %d", size.columns, size.rows), full(size.rows))
		x.resize(3, 2)
		x.await("hardly anything", func(text string) bool { return !strings.Contains(text, "q quit") })
		x.resize(1, 1)
	}
	x.press("\x03")
	x.end(0)
}

// TestWatchEnds by signals, with the terminal as it was, and by a terminal that goes away.
func TestWatchEnds(t *testing.T) {
	for _, signal := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT} {
		x := startTerminal(t, 80, 24, nil, mustBinary(t), "watch")
		x.awaitText(`q quit`)
		if err := x.cmd.Process.Signal(signal); err != nil {
			t.Fatal(err)
		}
		x.end(0)
	}
	x := startTerminal(t, 80, 24, nil, mustBinary(t), "watch")
	x.awaitText(`q quit`)
	if err := x.pty.Close(); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-x.ended:
		t.Log("ended with", err) // an error where the terminal is missed before the signal comes
	case <-time.After(20 * time.Second):
		t.Error("still there 20 s after its terminal")
	}
}

// TestWatchMessages: the program's own messages have a line of the screen, and come out at the end.
func TestWatchMessages(t *testing.T) {
	const message = "a part of the Resource is left out"
	x := startTerminal(t, 80, 24, []string{"OTEL_RESOURCE_ATTRIBUTES=wrong"}, mustBinary(t), "watch")
	x.awaitText(`\n\d\d:\d\d:\d\d ` + message + `[^\n]*…\s*\nq quit`)
	before := len(x.said())
	x.press("q")
	x.end(0)
	if after := x.said()[before:]; !strings.Contains(x.text(), message) || strings.Count(after, message) != 1 {
		t.Errorf("want the message behind the screen, once:\n%s", x.text())
	}
}

// TestWatchSuspends with Ctrl-Z, and goes on.
func TestWatchSuspends(t *testing.T) {
	x := startTerminal(t, 80, 24, nil, mustBinary(t), "watch")
	x.awaitText(`q quit`)
	x.press("\x1a")
	x.await("the screen that was before", func(string) bool { return x.mode()&vt10x.ModeAltScreen == 0 })
	if err := x.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	x.awaitText(`q quit`)
	x.press("q")
	x.end(0)
}

// TestWatchLines: where stdout is no terminal, lines in the order of time, of what the filter chooses.
func TestWatchLines(t *testing.T) {
	cmd := exec.Command(mustBinary(t), "watch", "process:watch.test", "role:client")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	lines := bufio.NewScanner(stdout)
	holder := actor.Start(t, "hold", actor.Plan{Listen: "127.0.0.1:0", Connections: 5})
	holder.Report()
	for want := 6; want > 0 && lines.Scan(); want-- {
		if !regexp.MustCompile(fmt.Sprintf(`^TIME +EVENT |^\S+ open +watch.test\[%d\] +client `, holder.PID())).MatchString(lines.Text()) {
			t.Errorf("line %q", lines.Text())
		}
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	for lines.Scan() {
		t.Errorf("one line more: %q", lines.Text())
	}
	if err := cmd.Wait(); err != nil || stderr.Len() > 0 {
		t.Errorf("ended with %v, and said %q", err, stderr.String())
	}
}

// TestWatchLinesToHead: a reader that has seen enough is no error.
func TestWatchLinesToHead(t *testing.T) {
	cmd := exec.Command("sh", "-c", `{ "$0" watch; echo "exit code $?" >&2; } | head -n 1`, mustBinary(t))
	out := make(chan string, 1)
	go func() {
		b, err := cmd.CombinedOutput()
		out <- fmt.Sprint(string(b), err)
	}()
	for ended := false; !ended; {
		crowd := actor.Start(t, "crowd", actor.Plan{Listen: "127.0.0.1:0", Request: 1, Reply: 1, How: actor.ClientCloses, Connections: 10, Workers: 1})
		crowd.Report()
		crowd.Wait()
		select {
		case got := <-out:
			ended = true
			if !regexp.MustCompile(`^TIME .*\nexit code 0\n<nil>$`).MatchString(got) {
				t.Errorf("got %q", got)
			}
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// TestWatchUsage: a filter that is none, before anything else is tried.
func TestWatchUsage(t *testing.T) {
	out, err := exec.Command(mustBinary(t), "watch", "state:opened", "port:x").CombinedOutput()
	if want := "connspan: watch: filter \"port:x\": want a port, 0 to 65535; see connspan help\n"; string(out) != want || err == nil || err.Error() != "exit status 2" {
		t.Errorf("got %q, %v", out, err)
	}
}
