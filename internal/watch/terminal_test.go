package watch

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/hinshun/vt10x"
	"golang.org/x/sys/unix"

	"github.com/connspan/connspan/exporter"
)

// terminal is a pseudo terminal with a program in it, and an emulator that shows what it shows.
type terminal struct {
	t      *testing.T
	cmd    *exec.Cmd
	pty    *os.File
	before unix.Termios
	ended  chan error
	read   chan struct{} // closed when all that the program wrote has been read

	mu     sync.Mutex
	screen vt10x.Terminal
	held   []byte // the beginning of a sequence
	all    bytes.Buffer
}

func startTerminal(t *testing.T, columns, rows int, env []string, name string, args ...string) *terminal {
	t.Helper()
	master, slave := openTerminal(t)
	defer slave.Close()
	x := &terminal{t: t, pty: master, ended: make(chan error, 1), read: make(chan struct{}), screen: vt10x.New(vt10x.WithSize(columns, rows))}
	x.resize(columns, rows)
	x.before = x.termios()
	x.cmd = exec.Command(name, args...)
	x.cmd.Env = append(append(os.Environ(), "TERM=xterm-256color"), env...)
	x.cmd.Stdin, x.cmd.Stdout, x.cmd.Stderr = slave, slave, slave
	x.cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true, Setctty: true}
	if err := x.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go x.listen()
	waited := make(chan struct{})
	go func() {
		x.ended <- x.cmd.Wait()
		close(waited)
	}()
	t.Cleanup(func() {
		_ = x.cmd.Process.Kill()
		<-waited
		<-x.read
		_ = master.Close()
	})
	return x
}

// openTerminal gives both ends of a new pseudo terminal.
func openTerminal(t *testing.T) (master, slave *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	var n int
	control(t, master, func(fd int) error {
		if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
			return err
		}
		n, err = unix.IoctlGetInt(fd, unix.TIOCGPTN)
		return err
	})
	if slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0); err != nil {
		t.Fatal(err)
	}
	return master, slave
}

// control does not do what f.Fd does: make f a file whose reader Close cannot wake.
func control(t *testing.T, f *os.File, do func(fd int) error) {
	t.Helper()
	raw, err := f.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if controlErr := raw.Control(func(fd uintptr) { err = do(int(fd)) }); controlErr != nil || err != nil {
		t.Fatal(controlErr, err)
	}
}

func (x *terminal) termios() (termios unix.Termios) {
	x.t.Helper()
	control(x.t, x.pty, func(fd int) error {
		got, err := unix.IoctlGetTermios(fd, unix.TCGETS)
		if err == nil {
			termios = *got
		}
		return err
	})
	return termios
}

func (x *terminal) resize(columns, rows int) {
	x.t.Helper()
	x.mu.Lock()
	defer x.mu.Unlock()
	x.screen.Resize(columns, rows)
	control(x.t, x.pty, func(fd int) error {
		return unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: uint16(rows), Col: uint16(columns)})
	})
}

func (x *terminal) listen() {
	defer close(x.read)
	b := make([]byte, 4096)
	for {
		n, err := x.pty.Read(b)
		x.mu.Lock()
		x.show(b[:n])
		x.mu.Unlock()
		if err != nil {
			return
		}
	}
}

var (
	// modern is what terminals that do not know it ignore, and the emulator would take for something else.
	modern     = regexp.MustCompile(`\x1b\[[<=>][0-9;]*[a-zA-Z]`)
	unfinished = regexp.MustCompile(`\x1b(\[[0-9;<=>?$]*)?$`)
)

func (x *terminal) show(b []byte) {
	x.all.Write(b)
	b = append(x.held, b...)
	end := len(b)
	if at := unfinished.FindIndex(b); at != nil {
		end = at[0]
	}
	for end > 0 && end == len(b) && !utf8.FullRune(b[lastRune(b):]) {
		end = lastRune(b)
	}
	_, _ = x.screen.Write(modern.ReplaceAll(b[:end], nil))
	x.held = bytes.Clone(b[end:])
}

// lastRune is where the last character begins.
func lastRune(b []byte) int {
	i := len(b) - 1
	for i > 0 && !utf8.RuneStart(b[i]) {
		i--
	}
	return i
}

func (x *terminal) text() string {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.screen.String()
}

// said is all that has ever been written to the terminal.
func (x *terminal) said() string {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.all.String()
}

func (x *terminal) mode() vt10x.ModeFlag {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.screen.Mode()
}

func (x *terminal) press(keys string) {
	x.t.Helper()
	if _, err := io.WriteString(x.pty, keys); err != nil {
		x.t.Fatal(err)
	}
}

// await waits until the screen is as wanted.
func (x *terminal) await(what string, wanted func(text string) bool) {
	x.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if wanted(x.text()) {
			return
		}
		select {
		case err := <-x.ended:
			x.t.Fatalf("ended with %v before %s:\n%s", err, what, x.text())
		default:
		}
	}
	x.t.Fatalf("not after 30 s: %s\n%s", what, x.text())
}

func (x *terminal) awaitText(pattern string) {
	x.t.Helper()
	x.await(pattern, regexp.MustCompile(pattern).MatchString)
}

// end waits for the exit code, and wants the terminal as it was.
func (x *terminal) end(code int) {
	x.t.Helper()
	select {
	case err := <-x.ended:
		var exit *exec.ExitError
		got := 0
		if errors.As(err, &exit) {
			got = exit.ExitCode()
		} else if err != nil {
			x.t.Fatal(err)
		}
		if got != code {
			x.t.Errorf("exit code %d, want %d:\n%s", got, code, x.text())
		}
	case <-time.After(20 * time.Second):
		x.t.Fatalf("still there after 20 s:\n%s", x.text())
	}
	<-x.read
	if diff := cmp.Diff(x.before, x.termios()); diff != "" {
		x.t.Errorf("the terminal's settings (-before +after):\n%s", diff)
	}
	if x.mode()&(vt10x.ModeAltScreen|vt10x.ModeHide) != 0 {
		x.t.Error("want the cursor, and the screen that was before")
	}
}

const breakdownEnv = "CONNSPAN_TEST_BREAKDOWN"

// tracing is a tracer of which only the end is of interest.
type tracing func(context.Context) error

func (f tracing) Run(ctx context.Context) error { return f(ctx) }

// breakDown shows a screen that comes to its end in the given way.
func breakDown(how string) {
	s := newScreen(&feed{table: newTable(1)}, func() (exporter.Stats, error) { return exporter.Stats{}, nil }, Filter{}, &messages{})
	run := func(ctx context.Context) error { <-ctx.Done(); return nil }
	soon := make(chan struct{})
	time.AfterFunc(time.Second, func() { close(soon) })
	switch how {
	case "panic in the tracer":
		run = func(context.Context) error { <-soon; panic("broken") }
	case "panic in the screen":
		s.stats = func() (exporter.Stats, error) {
			select {
			case <-soon:
				panic("broken")
			default:
				return exporter.Stats{}, nil
			}
		}
	case "error of the tracer":
		run = func(context.Context) error { <-soon; return errors.New("broken") }
	}
	if err := show(context.Background(), os.Stdout, tracing(run), s); err != nil { //nolint:usetesting // a main function
		slog.Error(err.Error())
		os.Exit(1) //nolint:revive // this is the process's main function
	}
	os.Exit(0) //nolint:revive // this is the process's main function
}

// TestTerminalComesBack after whatever goes wrong, and says what did.
func TestTerminalComesBack(t *testing.T) {
	for how, code := range map[string]int{"panic in the tracer": 2, "panic in the screen": 1, "error of the tracer": 1} {
		t.Run(how, func(t *testing.T) {
			self, err := os.Executable()
			if err != nil {
				t.Fatal(err)
			}
			x := startTerminal(t, 80, 24, []string{breakdownEnv + "=" + how}, self)
			x.await("the screen", func(string) bool { return x.mode()&vt10x.ModeAltScreen != 0 })
			x.end(code)
			if said := x.said(); !strings.Contains(said, "broken") {
				t.Errorf("want the reason:\n%s", said)
			}
		})
	}
}

// built is the directory of the binary, once there is one.
var built string

// binary builds connspan, once.
var binary = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "connspan-test-")
	if err != nil {
		return "", err
	}
	built = dir
	path := filepath.Join(dir, "connspan")
	cmd := exec.Command("go", "build", "-o", path, "github.com/connspan/connspan")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building: %w: %s", err, out)
	}
	return path, nil
})

func mustBinary(t *testing.T) string {
	t.Helper()
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	return path
}
