package agent

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
)

func TestRunWithoutTypes(t *testing.T) {
	for _, args := range []string{"run --btf /nonexistent", "--btf /nonexistent"} {
		got := mainWith(strings.Fields(args)...)
		if got.Code != 1 || got.Stdout != "" || strings.Count(got.Stderr, "\n") != 1 ||
			!strings.HasPrefix(got.Stderr, "connspan: ") || !strings.Contains(got.Stderr, "BTF") {
			t.Errorf("%s: got %+v, want exit code 1 and one line that names BTF", args, got)
		}
	}
}

func TestRunWithAnExporterThatCannotStart(t *testing.T) {
	got := mainWith("run", "--btf", "/nonexistent", "--config", write(t, `
exporters:
  console:
  otlp: {endpoint: "127.0.0.1:1", tls: {ca_file: /nonexistent/ca.pem}}
`))
	if got.Code != 1 || strings.Count(got.Stderr, "\n") != 1 || !strings.HasPrefix(got.Stderr, "connspan: otlp: ") || !strings.Contains(got.Stderr, "/nonexistent/ca.pem") {
		t.Errorf("got %+v, want exit code 1 and one line that names otlp and the file", got)
	}
}

// A failing exporter is the program's end only when it is the last.
func TestFailingExporters(t *testing.T) {
	var stderr output
	var gaveUp error
	cfg := mustLoad(t, "exporters: {console/a: , console/b: }")
	e, err := newExporters("", cfg, startTelemetry(t), newLogger("info", &stderr), failing{}, func(err error) { gaveUp = err })
	if err != nil {
		t.Fatal(err)
	}
	if err := e.start(); err != nil {
		t.Fatal(err)
	}
	defer e.shutdown()

	logs := plogotlp.NewExportRequest().Logs()
	logs.ResourceLogs().AppendEmpty().ScopeLogs().AppendEmpty().LogRecords().AppendEmpty()
	for i, l := range e.consumers().Logs {
		if gaveUp != nil {
			t.Errorf("gave up while %s works: %v", e.all[i].id, gaveUp)
		}
		if err := l.ConsumeLogs(t.Context(), logs); err != nil {
			t.Fatal(err)
		}
		eventually(t, func() bool {
			e.mu.Lock()
			defer e.mu.Unlock()
			return e.working == len(e.all)-1-i
		})
	}
	if want := "console/b: writing log records: broken pipe"; gaveUp == nil || gaveUp.Error() != want {
		t.Errorf("gave up with %v, want %s", gaveUp, want)
	}
	if n := strings.Count(stderr.String(), "\n"); n != 1 || !strings.Contains(stderr.String(), `"exporter": "console/a"`) {
		t.Errorf("got log %q, want one line about console/a", stderr.String())
	}
}

type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, syscall.EPIPE }

func TestShutdownHasADeadline(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	defer r.Close()
	var stderr output
	cfg := mustLoad(t, "")
	e, err := newExporters("", cfg, startTelemetry(t), newLogger("info", &stderr), w, func(error) {})
	if err != nil {
		t.Fatal(err)
	}
	if err := e.start(); err != nil {
		t.Fatal(err)
	}
	logs := plogotlp.NewExportRequest().Logs()
	records := logs.ResourceLogs().AppendEmpty().ScopeLogs().AppendEmpty().LogRecords()
	for range 2000 { // more than a pipe holds
		records.AppendEmpty()
	}
	if err := e.consumers().Logs[0].ConsumeLogs(t.Context(), logs); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	e.shutdown()
	if took := time.Since(start); took < shutdownTimeout {
		t.Errorf("gave up after %v, want %v", took, shutdownTimeout)
	}
	if !strings.Contains(stderr.String(), "2000 log records not written") {
		t.Errorf("got log %q", stderr.String())
	}
}

// running is the program at work in this process.
type running struct {
	stdout, stderr output
	code           chan int
}

// start runs the program until it traces. It needs root.
func start(t *testing.T, args ...string) *running {
	t.Helper()
	r := &running{code: make(chan int, 1)}
	go func() { r.code <- Main("1.2.3", args, &r.stdout, &r.stderr) }()
	eventually(t, func() bool {
		return strings.Contains(r.stderr.String(), "tracing TCP connections") || len(r.code) > 0
	})
	if len(r.code) > 0 {
		t.Fatalf("exit code %d: %s", <-r.code, r.stderr.String())
	}
	return r
}

// stop ends it as an administrator does.
func (r *running) stop(t *testing.T) int {
	t.Helper()
	if err := syscall.Kill(os.Getpid(), syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case code := <-r.code:
		return code
	case <-time.After(20 * time.Second):
		t.Fatalf("still runs: %s", r.stderr.String())
		return 0
	}
}

func eventually(t *testing.T, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !condition(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("condition not met in 20s")
		}
	}
}

// connect has another process connect to a port that refuses; the program leaves its own out.
func connect(t *testing.T) (port int) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port = l.Addr().(*net.TCPAddr).Port
	l.Close()
	_ = exec.CommandContext(t.Context(), "bash", "-c", fmt.Sprintf("exec 3<>/dev/tcp/127.0.0.1/%d", port)).Run()
	return port
}

func TestRunTraces(t *testing.T) {
	r := start(t)
	port := connect(t)
	eventually(t, func() bool { return strings.Contains(r.stdout.String(), fmt.Sprintf("127.0.0.1:%d ", port)) })
	if code := r.stop(t); code != 0 {
		t.Errorf("exit code %d", code)
	}
	var found bool
	for line := range strings.Lines(r.stdout.String()) {
		words := strings.Fields(line)
		found = found || words[1] == "failed" && strings.HasPrefix(words[2], "bash[") && words[len(words)-1] == "connection_refused"
	}
	if !found || !strings.HasPrefix(r.stdout.String(), "TIME ") {
		t.Errorf("got:\n%s", r.stdout.String())
	}
	messages := strings.Split(r.stderr.String(), "\n")
	if len(messages) != 3 || !strings.Contains(messages[0], `"exporters": ["console to stdout"]`) || !strings.Contains(messages[1], "\tstopped\t") {
		t.Errorf("got messages:\n%s", r.stderr.String())
	}
}

func TestRunTellsWhatItCouldNotDeliver(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	endpoint := l.Addr().String()
	l.Close()
	r := start(t, "--config", write(t, "exporters: {console: , otlp: {endpoint: '"+endpoint+"', tls: {insecure: true}}}"))
	port := connect(t)
	eventually(t, func() bool { return strings.Contains(r.stdout.String(), fmt.Sprintf("127.0.0.1:%d ", port)) })
	if code := r.stop(t); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if !regexp.MustCompile(`"exporter": "otlp".*\d+ of \d+ log records not delivered`).MatchString(r.stderr.String()) {
		t.Errorf("got messages:\n%s", r.stderr.String())
	}
}

// startProcess runs the program in a process of its own until it traces. It needs root.
func startProcess(t *testing.T, stdout *os.File, args ...string) (*exec.Cmd, *output) {
	t.Helper()
	var stderr output
	cmd := exec.CommandContext(t.Context(), os.Args[0], args...)
	cmd.Env = append(os.Environ(), asProgram+"=1")
	cmd.Stdout, cmd.Stderr = stdout, &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() bool { return strings.Contains(stderr.String(), "tracing TCP connections") })
	return cmd, &stderr
}

func TestRunEndsWithItsLastReader(t *testing.T) {
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd, stderr := startProcess(t, writer)
	writer.Close()
	reader.Close()
	connect(t)
	_ = cmd.Wait()
	messages := strings.Split(strings.TrimSpace(stderr.String()), "\n")
	if cmd.ProcessState.ExitCode() != 1 || messages[len(messages)-1] != "connspan: console: writing log records: write /dev/stdout: broken pipe" {
		t.Errorf("got %s, messages:\n%s", cmd.ProcessState, stderr.String())
	}
}

// A signal ends the program in order, also when it is sent twice at once; a later one ends it at once.
func TestSignals(t *testing.T) {
	hung, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer hung.Close()
	cmd, stderr := startProcess(t, nil, "--config", write(t, "exporters: {otlphttp: {endpoint: 'http://"+hung.Addr().String()+"'}}"))
	connect(t)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = cmd.Wait()
	}()

	for _, wait := range []time.Duration{100 * time.Millisecond, 1500 * time.Millisecond} {
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		select {
		case <-ended: // the hung server makes it take shutdownTimeout
			t.Fatalf("got %s, messages:\n%s", cmd.ProcessState, stderr.String())
		case <-time.After(wait):
		}
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	<-ended
	if status := cmd.ProcessState.Sys().(syscall.WaitStatus); status.Signal() != syscall.SIGTERM {
		t.Errorf("got %s, messages:\n%s", cmd.ProcessState, stderr.String())
	}
}
