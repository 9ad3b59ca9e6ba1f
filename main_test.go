package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.uber.org/goleak"

	"github.com/connspan/connspan/internal/actor"
)

func TestMain(m *testing.M) {
	actor.Main()
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		if path, err := binary(); err == nil {
			_ = os.RemoveAll(filepath.Dir(path))
		}
		os.Exit(code)
	}))
}

// program is a process under test: what it has said on stderr can be waited for.
type program struct {
	t      testing.TB
	cmd    *exec.Cmd
	stdout output
	stderr output
	more   chan struct{}
	ended  chan error    // how, once
	gone   chan struct{} // closed then
}

// output is a text that one goroutine writes while others read it.
type output struct {
	mu sync.Mutex
	b  strings.Builder
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(b)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

func start(t testing.TB, env []string, name string, args ...string) *program {
	t.Helper()
	p := &program{t: t, cmd: exec.Command(name, args...), more: make(chan struct{}, 1), ended: make(chan error, 1), gone: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), env...)
	p.cmd.Stdout = &p.stdout
	stderr, err := p.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go p.listen(stderr)
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		<-p.gone
	})
	return p
}

func (p *program) listen(stderr io.Reader) {
	for lines := bufio.NewScanner(stderr); lines.Scan(); {
		_, _ = io.WriteString(&p.stderr, lines.Text()+"\n")
		select {
		case p.more <- struct{}{}:
		default:
		}
	}
	p.ended <- p.cmd.Wait()
	close(p.gone)
}

func (p *program) log() string { return p.stderr.String() }

// await waits until the program's log matches and gives the submatches.
func (p *program) await(pattern string) []string {
	p.t.Helper()
	re := regexp.MustCompile(pattern)
	timeout := time.After(30 * time.Second)
	for {
		if m := re.FindStringSubmatch(p.log()); m != nil {
			return m
		}
		select {
		case <-p.more:
		case err := <-p.ended:
			p.t.Fatalf("%s ended with %v before it said %q:\n%s", p.cmd.Path, err, pattern, p.log())
		case <-timeout:
			p.t.Fatalf("%s has not said %q in 30 s:\n%s", p.cmd.Path, pattern, p.log())
		}
	}
}

// stop sends the signal and wants a good end.
func (p *program) stop(signal os.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(signal); err != nil {
		p.t.Fatal(err)
	}
	select {
	case err := <-p.ended:
		if err != nil {
			p.t.Fatalf("%s ended with %v:\n%s", p.cmd.Path, err, p.log())
		}
	case <-time.After(5 * time.Second):
		p.t.Fatalf("%s is still there 5 s after %v:\n%s", p.cmd.Path, signal, p.log())
	}
}

// kill ends the program without warning.
func (p *program) kill() {
	p.t.Helper()
	if err := p.cmd.Process.Kill(); err != nil {
		p.t.Fatal(err)
	}
	<-p.gone
}

// counted gives the totals that the program has logged at its end.
func (p *program) counted() map[string]int {
	p.t.Helper()
	var counts map[string]int
	if err := json.Unmarshal([]byte(p.await(`\tstopped\t({.*})`)[1]), &counts); err != nil {
		p.t.Fatalf("reading the totals: %v\n%s", err, p.log())
	}
	return counts
}

// checkBalance holds the totals that the program has logged at its end against each other and
// against the records that came out.
func (p *program) checkBalance(records int) {
	p.t.Helper()
	n := p.counted()
	for _, name := range []string{"lost", "unseen", "malformed", "late", "violations", "refused"} {
		if got, ok := n[name]; !ok || got != 0 {
			p.t.Errorf("%s: %d, logged %v, want 0", name, got, ok)
		}
	}
	if told := n["opened"] + n["closed"] + n["failed"] + n["adopted"] + n["synthesized"]; told != records || records == 0 {
		p.t.Errorf("%d records came out, and %v say that %d went in", records, n, told)
	}
	for name, sides := range map[string][2]int{
		"read = released": {n["read"], n["released"]},
		"released = opened + closed + failed + adopted + repeated + sampled": {n["released"], n["opened"] + n["closed"] + n["failed"] + n["adopted"] + n["repeated"] + n["sampled"]},
		"opened + adopted + strays = open + closed + synthesized":            {n["opened"] + n["adopted"] + n["strays"], n["open"] + n["closed"] + n["synthesized"]},
	} {
		if sides[0] != sides[1] {
			p.t.Errorf("%s: %d and %d, of %v", name, sides[0], sides[1], n)
		}
	}
}

// binary builds connspan, once.
var binary = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "connspan-test-")
	if err != nil {
		return "", err
	}
	if err := os.Chmod(dir, 0o755); err != nil { // another user is to run it
		return "", err
	}
	path := filepath.Join(dir, "connspan")
	cmd := exec.Command("go", "build", "-o", path, ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building: %w: %s", err, out)
	}
	return path, nil
})

func mustBinary(t testing.TB) string {
	t.Helper()
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// collector runs the real Collector with the configuration that users are given.
type collector struct {
	*program
	grpc, http string
	file       string
}

func startCollector(t testing.TB) *collector {
	t.Helper()
	path := os.Getenv("CONNSPAN_TEST_COLLECTOR")
	if path == "" {
		out, err := exec.Command("otelcol-config/build.sh").Output()
		if err != nil {
			t.Fatalf("building the Collector: %v", err)
		}
		path = strings.TrimSpace(string(out))
	}
	file := filepath.Join(t.TempDir(), "otlp.jsonl")
	p := start(t, []string{"CONNSPAN_OTLP_GRPC=127.0.0.1:0", "CONNSPAN_OTLP_HTTP=127.0.0.1:0", "CONNSPAN_FILE=" + file},
		path, "--config", "otelcol-config/debug-file.yaml")
	endpoint := func(kind string) string {
		return p.await(`Starting ` + kind + ` server.*"endpoint": "([^"]+)"`)[1]
	}
	c := &collector{program: p, grpc: endpoint("GRPC"), http: endpoint("HTTP"), file: file}
	p.await("Everything is ready")
	return c
}

// records reads back everything that the Collector has written.
func (c *collector) records() (all []plog.LogRecord) {
	c.t.Helper()
	b, err := os.ReadFile(c.file)
	if err != nil {
		c.t.Fatal(err)
	}
	return readRecords(c.t, string(b))
}

// readRecords reads OTLP/JSON, a request per line. A last line that is not whole is left out.
func readRecords(t testing.TB, text string) (all []plog.LogRecord) {
	t.Helper()
	for line := range strings.Lines(text) {
		if !strings.HasSuffix(line, "\n") {
			break
		}
		ld, err := (&plog.JSONUnmarshaler{}).UnmarshalLogs([]byte(line))
		if err != nil {
			t.Fatalf("reading records: %v", err)
		}
		for _, rl := range ld.ResourceLogs().All() {
			for _, sl := range rl.ScopeLogs().All() {
				for _, lr := range sl.LogRecords().All() {
					all = append(all, lr)
				}
			}
		}
	}
	return all
}

// awaitRecords waits until the Collector has written so many records.
func (c *collector) awaitRecords(n int) {
	c.t.Helper()
	got := 0
	for deadline := time.Now().Add(2 * time.Minute); time.Now().Before(deadline); time.Sleep(200 * time.Millisecond) {
		b, err := os.ReadFile(c.file)
		if err != nil {
			c.t.Fatal(err)
		}
		if got = bytes.Count(b, []byte(`"eventName"`)); got >= n {
			return
		}
	}
	c.t.Fatalf("%d records in the Collector's file after 2 minutes, want %d", got, n)
}

func attr(lr plog.LogRecord, key string) any {
	if v, ok := lr.Attributes().Get(key); ok {
		return v.AsRaw()
	}
	return nil
}

func writeConfig(t testing.TB, yaml string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "connspan.yaml")
	if err := os.WriteFile(path, []byte(yaml), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

const tracing = "tracing TCP connections"

// queue holds all records of a crowd: that Collector and crowd share the processors is no reason to
// refuse any.
const queue = "sending_queue: {queue_size: 200000}"

// audit finds the ends that no program was run for, soon; the rings are for a machine that has to
// run the load and the Collector too.
const audit = "tracer: {audit: 1s, ring_size: 16MiB}\n"

// TestEndToEnd sends twenty thousand connections, and a known one, through the program and a real
// Collector to its file; the last of them right before the signal to stop.
func TestEndToEnd(t *testing.T) {
	tests := []struct {
		name   string
		config string
		signal os.Signal
	}{
		{"gRPC", "exporters: {otlp: {endpoint: %q, tls: {insecure: true}, " + queue + "}}", syscall.SIGTERM},
		{"HTTP", "exporters: {otlphttp: {endpoint: http://%s, " + queue + "}}", syscall.SIGINT},
		{"HTTP, JSON", "exporters: {otlphttp: {endpoint: http://%s, encoding: json, " + queue + "}}", syscall.SIGTERM},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := startCollector(t)
			endpoint := c.grpc
			if strings.Contains(tt.config, "otlphttp") {
				endpoint = c.http
			}
			p := start(t, nil, mustBinary(t), "--config", writeConfig(t, audit+fmt.Sprintf(tt.config, endpoint)))
			p.await(tracing)
			blind := actor.Blind(t)
			const n = 20_000
			crowd := actor.Start(t, "crowd", actor.Plan{Listen: "127.0.0.1:0", Request: 1, Reply: 1, How: actor.ClientCloses, Connections: n, Workers: 8})
			crowd.Report()
			crowd.Wait()
			c.awaitRecords(4*n - blind())
			pair := actor.Start(t, "pair", actor.Plan{Listen: "127.0.0.1:0", Request: 120, Reply: 5300, How: actor.ClientCloses, Comm: []byte("a\xff\x1bb")})
			truth := pair.Report()
			pair.Cue()
			pair.Report()
			pair.Wait()
			p.stop(tt.signal)

			records := c.records()
			checkCrowd(t, records, crowd.PID(), n, blind())
			checkPair(t, records, truth)
			checkFeedback(t, records, p.cmd.Process.Pid, c.cmd.Process.Pid)
			p.checkBalance(len(records))
		})
	}
}

func checkCrowd(t *testing.T, records []plog.LogRecord, pid, n, unseen int) {
	t.Helper()
	early := unseen
	counts := map[string]int{}
	open := map[string]bool{}
	for _, lr := range records {
		if attr(lr, "process.pid") != int64(pid) {
			continue
		}
		role, _ := attr(lr, "network.tcp.handshake.role").(string)
		counts[lr.EventName()+" "+role]++
		end := fmt.Sprint(role, attr(lr, "tcp.connection.id"))
		if lr.EventName() == "tcp.connection.close" && !open[end] {
			if early--; early < 0 {
				t.Fatalf("%s: closed before it opened", lr.Body().Str())
			}
		}
		open[end] = true
	}
	for _, kind := range []string{"tcp.connection.open client", "tcp.connection.open server", "tcp.connection.close client", "tcp.connection.close server"} {
		if counts[kind] > n || counts[kind] < n-unseen {
			t.Errorf("%s: %d records of the crowd, want %d less at most %d", kind, counts[kind], n, unseen)
		}
	}
}

func checkPair(t *testing.T, records []plog.LogRecord, truth actor.Report) {
	t.Helper()
	var got []string
	for _, lr := range records {
		if attr(lr, "process.pid") == int64(truth.PID) {
			// It calls itself what protobuf would refuse, with all the rest of its batch.
			if line := lr.Body().Str(); attr(lr, "network.tcp.handshake.role") == "client" && !strings.Contains(line, " a\ufffd\ufffdb[") {
				t.Errorf("a process that is called otherwise: %q", line)
			}
			got = append(got, fmt.Sprint(lr.EventName(), " ", attr(lr, "network.local.address"), ":", attr(lr, "network.local.port"),
				" ", attr(lr, "tcp.connection.bytes_sent"), " ", attr(lr, "tcp.connection.bytes_received"), " ", attr(lr, "tcp.connection.close.initiator")))
		}
	}
	want := []string{
		fmt.Sprint("tcp.connection.open ", truth.Local, " <nil> <nil> <nil>"),
		fmt.Sprint("tcp.connection.open ", truth.Peer, " <nil> <nil> <nil>"),
		fmt.Sprint("tcp.connection.close ", truth.Local, " 120 5300 local"),
		fmt.Sprint("tcp.connection.close ", truth.Peer, " 5300 120 peer"),
	}
	slices.Sort(want)
	slices.Sort(got)
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("records of the pair:\n%s", d)
	}
}

// checkFeedback: the program's own connections to the Collector are not told, and the Collector's
// ends of them once, not again for each export.
func checkFeedback(t *testing.T, records []plog.LogRecord, program, collector int) {
	t.Helper()
	ends := 0
	for _, lr := range records {
		switch attr(lr, "process.pid") {
		case int64(program):
			t.Errorf("told of its own connection: %s", lr.Body().Str())
		case int64(collector):
			ends++
		}
	}
	if ends > 20 {
		t.Errorf("%d records of the Collector's ends, want a few", ends)
	}
}

// TestConsole: without a configuration, text on stdout, in order of time, with a header.
func TestConsole(t *testing.T) {
	p := start(t, nil, mustBinary(t))
	p.await(tracing)
	crowd := actor.Start(t, "crowd", actor.Plan{Listen: "127.0.0.1:0", Request: 1, Reply: 1, How: actor.ClientCloses, Connections: 500, Workers: 8})
	crowd.Report()
	crowd.Wait()
	pair := actor.Start(t, "pair", actor.Plan{Listen: "127.0.0.1:0", Request: 120, Reply: 5300, How: actor.ServerCloses})
	pair.Report()
	pair.Cue()
	pair.Report()
	pair.Wait()
	p.stop(syscall.SIGINT)
	var mine, times []string
	for line := range strings.Lines(p.stdout.String()) {
		if at, _, _ := strings.Cut(line, " "); at != "TIME" {
			times = append(times, at)
		}
		if strings.Contains(line, fmt.Sprintf("[%d]", pair.PID())) {
			mine = append(mine, line)
		}
	}
	if len(mine) != 4 || !strings.Contains(p.stdout.String(), "PROCESS") {
		t.Errorf("want a header and four lines of process %d:\n%s", pair.PID(), p.stdout.String())
	}
	if !slices.IsSorted(times) || len(times) < 2000 {
		t.Errorf("%d lines, in order of time: %v", len(times), slices.IsSorted(times))
	}
	p.checkBalance(len(times))
}

// TestRestart: the program is killed without warning, and started again. What is open then is told by
// the second one as older than itself, never as opened a second time; what ends is told to have ended.
func TestRestart(t *testing.T) {
	config := writeConfig(t, audit+"exporters: {console: {format: otlp_json}}")
	first := start(t, nil, mustBinary(t), "--config", config)
	first.await(tracing)
	holder := actor.Start(t, "hold", actor.Plan{Listen: "127.0.0.1:0", Connections: 50})
	before := first.awaitOpen(holder, holder.Report())
	first.kill()

	holder.Cue() // it closes half of them and opens others, and nobody sees it
	survivors := holder.Report()
	second := start(t, nil, mustBinary(t), "--config", config)
	second.await(tracing)
	second.awaitOpen(holder, survivors)
	holder.Cue()
	second.awaitOpen(holder, holder.Report())
	holder.Kill()
	after := second.awaitOpen(holder, actor.Report{})
	second.stop(syscall.SIGTERM)
	second.checkBalance(len(readRecords(t, second.stdout.String())))

	times := map[string]int{}
	for _, lr := range slices.Concat(before, after) {
		kind := lr.EventName()
		if attr(lr, "tcp.connection.preexisting") == true && kind == "tcp.connection.open" {
			kind = "found open"
		}
		times[kind]++
		name := fmt.Sprint(kind, " ", end(lr), " ", attr(lr, "tcp.connection.id"))
		if times[name]++; times[name] > 1 {
			t.Errorf("told twice: %s", name)
		}
	}
	want := map[string]int{"tcp.connection.open": 150, "found open": 100, "tcp.connection.close": 150}
	for kind, n := range want {
		if times[kind] != n {
			t.Errorf("%s: %d times, want %d", kind, times[kind], n)
		}
	}
}

// awaitOpen waits until the records of the holder say that just what it has open is open, and gives
// these records.
func (p *program) awaitOpen(holder *actor.Process, truth actor.Report) (records []plog.LogRecord) {
	p.t.Helper()
	want := map[string]bool{}
	for _, client := range truth.Open {
		want[fmt.Sprint("client ", client, " ", truth.Local)] = true
		want[fmt.Sprint("server ", truth.Local, " ", client)] = true
	}
	var open map[string]bool
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		records, open = nil, map[string]bool{}
		for _, lr := range readRecords(p.t, p.stdout.String()) {
			if attr(lr, "process.pid") != int64(holder.PID()) {
				continue
			}
			records = append(records, lr)
			if lr.EventName() == "tcp.connection.open" {
				open[end(lr)] = true
			} else {
				delete(open, end(lr))
			}
		}
		if maps.Equal(open, want) {
			return records
		}
	}
	p.t.Fatalf("open ends (-holder +told):\n%s", cmp.Diff(want, open))
	return nil
}

// end names an end of a connection.
func end(lr plog.LogRecord) string {
	return fmt.Sprintf("%s %s:%d %s:%d", attr(lr, "network.tcp.handshake.role"),
		attr(lr, "network.local.address"), attr(lr, "network.local.port"),
		attr(lr, "network.peer.address"), attr(lr, "network.peer.port"))
}

// TestNoPrivileges: another user gets one line with the reason, and a check that names it.
func TestNoPrivileges(t *testing.T) {
	for _, args := range [][]string{{"run"}, {"check"}} {
		cmd := exec.Command(mustBinary(t), args...)
		cmd.Dir = "/"
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		var stdout, stderr bytes.Buffer
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		err := cmd.Run()
		if cmd.ProcessState.ExitCode() != 1 {
			t.Errorf("%v: %v, want exit code 1", args, err)
		}
		said := stderr.String()
		if args[0] == "check" {
			said = stdout.String()
		} else if strings.Count(said, "\n") != 1 {
			t.Errorf("%v says %q, want one line", args, said)
		}
		if !strings.Contains(said, "lacks CAP_BPF and CAP_PERFMON") {
			t.Errorf("%v says %q, want the capabilities that are missing", args, said)
		}
	}
}

// TestCollectorDown: the program ends in time although nobody takes what it has.
func TestCollectorDown(t *testing.T) {
	config := "exporters: {otlp: {endpoint: \"127.0.0.1:1\", tls: {insecure: true}}}"
	p := start(t, nil, mustBinary(t), "run", "--config", writeConfig(t, config))
	p.await(tracing)
	refused := actor.Start(t, "refused", actor.Plan{Connect: "127.0.0.1:2"})
	refused.Report()
	refused.Wait()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case <-p.gone:
	case <-ctx.Done():
		t.Fatalf("still there:\n%s", p.log())
	}
	if strings.Count(p.log(), "\n") > 20 {
		t.Errorf("floods its log:\n%s", p.log())
	}
}
