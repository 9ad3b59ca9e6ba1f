package watch

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/connspan/connspan/internal/actor"
)

// tmux is a server of its own with one window, of 80 columns, that the program runs in.
type tmux struct {
	t      *testing.T
	socket string
}

func startTmux(t *testing.T, command string) *tmux {
	t.Helper()
	if _, err := exec.LookPath("tmux"); err != nil {
		t.Skip("needs tmux: ", err)
	}
	x := &tmux{t, filepath.Join(t.TempDir(), "tmux")}
	// No pipe: the server would keep it open.
	start := exec.Command("tmux", "-u", "-S", x.socket, "-f", "/dev/null", "new-session", "-d", "-x", "80", "-y", "24", command)
	if err := start.Run(); err != nil {
		t.Fatalf("starting tmux: %v", err)
	}
	t.Cleanup(func() { _ = exec.Command("tmux", "-S", x.socket, "kill-server").Run() })
	return x
}

func (x *tmux) run(args ...string) string {
	x.t.Helper()
	out, err := exec.Command("tmux", append([]string{"-u", "-S", x.socket}, args...)...).CombinedOutput()
	if err != nil {
		x.t.Fatalf("tmux %q: %v\n%s", args, err, out)
	}
	return string(out)
}

// await gives the screen, without escapes, once all patterns are in it.
func (x *tmux) await(patterns ...string) string {
	x.t.Helper()
	var screen string
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		screen = x.run("capture-pane", "-p")
		missing := false
		for _, pattern := range patterns {
			missing = missing || !regexp.MustCompile(pattern).MatchString(screen)
		}
		if !missing {
			return screen
		}
	}
	x.t.Fatalf("not within 20 s: %q on this screen:\n%s", patterns, screen)
	return ""
}

// TestWatchInTmux: what people see who run it in tmux, 80 columns wide.
func TestWatchInTmux(t *testing.T) {
	x := startTmux(t, mustBinary(t)+" watch; echo ended with $?; sleep 60")
	x.await(`by age ▲`)
	holder := actor.Start(t, "hold", actor.Plan{Listen: "127.0.0.1:0", Connections: 2})
	truth := holder.Report()
	x.run("send-keys", "/")
	x.run("send-keys", "-l", fmt.Sprintf("local::%d", truth.Local.Port()))
	x.run("send-keys", "Enter")
	end := fmt.Sprint(":", truth.Local.Port()) // there is no room for more
	screen := x.await(`filter local::`, `(?s)\nopened .* server `+end+` .*\nopened .* server `+end+` `)
	for line := range strings.Lines(screen) {
		if n := len([]rune(strings.TrimSuffix(line, "\n"))); n > 80 {
			t.Errorf("a line of %d columns, want at most 80: %q", n, line)
		}
	}
	holder.Kill()
	x.await(`(?s)\nclosed .*\nclosed `)
	x.run("send-keys", "q")
	x.await(`ended with 0`)
}
