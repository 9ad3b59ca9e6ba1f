package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"golang.org/x/sys/unix"
)

// A variant is what may watch the connections.
type variant struct {
	name string
	// config is connspan's, for what it reads and tells; it is empty for other programs.
	config string
	// command is another program's, and end says whether a line that it prints tells of the end of a
	// connection with that port.
	command []string
	end     func(fields []string, port string) bool
}

// What the variants are called in tables.
const (
	none      = "no tracer"
	ringsRead = "connspan, rings read"
	closed    = "connspan, closed logs"
	logs      = "connspan, opened and closed logs"
	all       = "connspan, all signals"
	tcplife   = "tcplife"
	tcpstates = "tcpstates"
	bpftrace  = "bpftrace"
)

const (
	noMetrics = "metrics: {interval: 0s}\n"
	noTraces  = "traces: {sample_ratio: 0}\n"
	logsAlone = "logs: {events: [opened, closed]}\n" + noMetrics + noTraces
	// The windows are short: what metrics cost is to be in each of them.
	everything = "metrics: {interval: 1s}\n"
)

// oneLiner prints what tcpstates prints.
const oneLiner = `tracepoint:sock:inet_sock_set_state
{ printf("%llu %d %s %s %d %s %d %d %d\n", nsecs, pid, comm, ntop(args->family, args->saddr), args->sport,
  ntop(args->family, args->daddr), args->dport, args->oldstate, args->newstate); }`

var variants = []variant{
	{name: none},
	{name: ringsRead, config: "logs: {events: []}\n" + noMetrics + noTraces},
	{name: closed, config: "logs: {events: [closed]}\n" + noMetrics + noTraces},
	{name: logs, config: logsAlone},
	{name: all, config: everything},
	{name: tcplife, command: []string{"tcplife"}, end: func(f []string, port string) bool {
		return len(f) == 9 && (f[3] == port || f[5] == port)
	}},
	{name: tcpstates, command: []string{"tcpstates"}, end: func(f []string, port string) bool {
		return len(f) == 11 && (f[4] == port || f[6] == port) && f[9] == "CLOSE"
	}},
	{name: bpftrace, command: []string{"bpftrace", "-e", oneLiner}, end: func(f []string, port string) bool {
		return len(f) == 9 && (f[4] == port || f[6] == port) && f[8] == "7"
	}},
}

func named(name string) variant {
	return variants[slices.IndexFunc(variants, func(v variant) bool { return v.name == name })]
}

// patience is how long a tracer may take to end, or to know what is open.
const patience = 2 * time.Minute

// A tracer is a variant at work.
type tracer struct {
	cmd     *exec.Cmd
	stderr  *transcript
	ended   chan struct{} // closed when it has ended and all that it has printed is read
	failure error         // how it has ended
	metrics string        // address of connspan's /metrics
	ends    atomic.Int64  // lines that tell of an end, where they are counted
	lost    atomic.Int64  // events, by what the program prints
	reading sync.WaitGroup
}

// transcript keeps what a program says.
type transcript struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (t *transcript) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.b.Write(b)
}

func (t *transcript) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.b.String()
}

// start starts a tracer that ships to that address, where it ships. With a port other than 0 the ends
// of connections with that port are counted that it prints; else what it prints goes to /dev/null.
func (v variant) start(s settings, to string, port int) (*tracer, error) {
	if v.name == none {
		return nil, nil
	}
	t := &tracer{stderr: &transcript{}, ended: make(chan struct{})}
	command := v.command
	if v.config != "" {
		file, err := v.write(s, to)
		if err != nil {
			return nil, err
		}
		defer func() { _ = os.Remove(file) }()
		command = []string{s.connspan, "--config", file}
	}
	t.cmd = exec.Command(command[0], command[1:]...)
	t.cmd.Stderr = t.stderr
	t.cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true, Pdeathsig: unix.SIGKILL}
	if port != 0 && v.end != nil {
		out, err := t.cmd.StdoutPipe()
		if err != nil {
			return nil, err
		}
		t.reading.Go(func() { t.read(out, v.end, strconv.Itoa(port)) })
	}
	if err := t.cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting %s: %w", v.name, err)
	}
	go func() {
		t.reading.Wait()
		t.failure = t.cmd.Wait()
		close(t.ended)
	}()
	if err := t.await(v); err != nil {
		return nil, errors.Join(fmt.Errorf("starting %s: %w", v.name, err), t.stop())
	}
	return t, nil
}

// write writes connspan's configuration into a file.
func (v variant) write(s settings, to string) (string, error) {
	f, err := os.CreateTemp("", "connspan-bench-*.yaml")
	if err != nil {
		return "", err
	}
	compression := ""
	if s.compression != "" {
		compression = ", compression: " + s.compression
	}
	_, err = fmt.Fprintf(f, "%stelemetry: {address: \"127.0.0.1:0\"}\nexporters: {otlp: {endpoint: %q, tls: {insecure: true}%s}}\n",
		v.config, to, compression)
	return f.Name(), errors.Join(err, f.Close())
}

var (
	telemetryAddress = regexp.MustCompile(`"telemetry": "([^"]+)"`)
	closedInAll      = regexp.MustCompile(`"closed": (\d+)`)
	lostEvents       = regexp.MustCompile(`(?i)\blost (\d+) events`)
)

// await waits until the tracer has loaded its programs, and a little longer for it to attach them.
func (t *tracer) await(v variant) error {
	for range 200 {
		time.Sleep(50 * time.Millisecond)
		_, _, loaded, err := programs(t.cmd.Process.Pid)
		if err != nil {
			return err
		}
		if v.config == "" && loaded > 0 {
			time.Sleep(300 * time.Millisecond)
			return nil
		}
		if m := telemetryAddress.FindStringSubmatch(t.stderr.String()); m != nil {
			t.metrics = m[1]
			return nil
		}
		select {
		case <-t.ended:
			return fmt.Errorf("it has ended, %w: %s", cmp.Or(t.failure, errors.New("without a word")), t.stderr)
		default:
		}
	}
	return fmt.Errorf("it is not at work after 10 s: %s", t.stderr)
}

// read counts what the tracer prints.
func (t *tracer) read(out io.Reader, end func([]string, string) bool, port string) {
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if end(strings.Fields(lines.Text()), port) {
			t.ends.Add(1)
		} else {
			t.lost.Add(lostIn(lines.Text()))
		}
	}
}

func lostIn(text string) (n int64) {
	for _, m := range lostEvents.FindAllStringSubmatch(text, -1) {
		if lost, err := strconv.ParseInt(m[1], 10, 64); err == nil {
			n += lost
		}
	}
	return n
}

func (t *tracer) pid() int { return t.cmd.Process.Pid }

// stop ends the tracer as a user does. It may be called more than once.
func (t *tracer) stop() error {
	if t == nil {
		return nil
	}
	if err := t.cmd.Process.Signal(unix.SIGINT); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-t.ended:
		// How other programs end when they are interrupted is theirs.
		if t.metrics != "" && t.failure != nil {
			return fmt.Errorf("ending connspan: %w: %s", t.failure, t.stderr)
		}
		return nil
	case <-time.After(patience):
		return errors.Join(fmt.Errorf("process %d is still there %v after SIGINT", t.pid(), patience), t.cmd.Process.Kill())
	}
}

// closedAtEnd is how many ends of connections connspan has seen, as it says when it ends.
func (t *tracer) closedAtEnd() (n int) {
	if m := closedInAll.FindStringSubmatch(t.stderr.String()); m != nil {
		n, _ = strconv.Atoi(m[1])
	}
	return n
}

// counters are what a tracer says of itself.
type counters struct {
	lost       float64 // events
	refused    float64 // records that were made and not delivered; NaN where none are made
	violations float64 // of the order; NaN where nobody checks
	closed     float64 // ends of connections seen, of the whole host; NaN likewise
	open       float64 // connections open
}

// counters asks connspan, or reads what another program has said.
func (t *tracer) counters(ctx context.Context) (counters, error) {
	if t.metrics == "" {
		lost := t.lost.Load() + lostIn(t.stderr.String())
		return counters{float64(lost), math.NaN(), math.NaN(), math.NaN(), math.NaN()}, nil
	}
	families, err := t.scrape(ctx)
	if err != nil {
		return counters{}, err
	}
	return counters{
		lost: families["connspan_event_lost_total"],
		refused: families["connspan_record_refused_total"] + families["connspan_exporter_rejected_total"] +
			families["connspan_exporter_dropped_total"] + families["connspan_exporter_given_up_total"],
		violations: families["connspan_event_violations_total"],
		closed:     families["connspan_connection_closed_total"],
		open:       families["connspan_connection_open"],
	}, nil
}

// scrape gives the sums of connspan's metrics, by name.
func (t *tracer) scrape(ctx context.Context) (map[string]float64, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+t.metrics+"/metrics", nil)
	if err != nil {
		return nil, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer func() { _ = response.Body.Close() }()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(response.Body)
	if err != nil {
		return nil, fmt.Errorf("reading /metrics: %w", err)
	}
	sums := map[string]float64{}
	for name, family := range families {
		for _, m := range family.GetMetric() {
			sums[name] += m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	// Those of the exporters are there when something is shipped alone.
	for _, name := range []string{
		"connspan_event_lost_total", "connspan_event_violations_total", "connspan_record_refused_total",
		"connspan_connection_closed_total", "connspan_connection_open",
	} {
		if _, ok := sums[name]; !ok {
			return nil, fmt.Errorf("reading /metrics: no %s", name)
		}
	}
	return sums, nil
}
