package exporter

import (
	"context"
	"io"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/pdata/plog"
	"golang.org/x/sys/unix"
)

// told is a log record as a test compares it, with the attributes that say who, whom and how.
type told struct {
	Event       string
	PID         int64
	Process     string
	User        int64 // -1 absent
	NetNS       int64
	OwnerSource string
	Role        string
	Local, Peer netip.AddrPort
	Sent        int64
	Received    int64
	Reason      string
	Initiator   string
	Error       string
	Preexisting bool
	Synthesized bool

	id, body  string
	at        time.Time
	duration  float64 // s; -1 absent
	handshake float64 // s; -1 absent
	rtt       float64 // s; -1 absent
	segments  [2]int64
	resent    int64
}

// trace runs an Exporter into memory until the test ends.
type trace struct {
	t       testing.TB
	x       *Exporter
	said    output       // what it has logged
	reader  atomic.Int32 // the thread that reads
	mu      sync.Mutex
	records []told
	block   chan struct{} // while it is there and open, the consumer blocks, and with it the reader
	counts  map[int64]int // of records, by process
	stop    func()
	stats   Stats // after stop
}

func startTrace(t testing.TB, change func(*Config)) *trace {
	t.Helper()
	return startTraceOn(t, allowedCPUs(t), change)
}

// startTraceOn has the reader run on these CPUs alone.
func startTraceOn(t testing.TB, cpus []int, change func(*Config)) *trace {
	t.Helper()
	return startTraceTo(t, cpus, func(cfg *Config, _ *Consumers, _ *trace) {
		if change != nil {
			change(cfg)
		}
	})
}

// startTraceTo may also have other consumers, as long as one of them hands the log records on.
func startTraceTo(t testing.TB, cpus []int, change func(*Config, *Consumers, *trace)) *trace {
	t.Helper()
	cfg := NewDefaultConfig()
	cfg.Tracer.Interval = 5 * time.Millisecond
	cfg.Tracer.Audit = time.Second
	tr := &trace{t: t, counts: map[int64]int{}}
	sink, err := consumer.NewLogs(tr.consume)
	if err != nil {
		t.Fatal(err)
	}
	to := Consumers{Logs: []consumer.Logs{sink}}
	change(&cfg, &to, tr)
	tr.x, err = New(cfg, to, slog.New(slog.NewTextHandler(io.MultiWriter(t.Output(), &tr.said), nil)))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- tr.run(ctx, cpus) }()
	tr.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("running: %v", err)
		}
		tr.stats = checkBalance(t, tr.x, uint64(len(tr.records)))
		if err := tr.x.Close(); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(tr.stop)
	return tr
}

// run reads with a thread of its own.
func (tr *trace) run(ctx context.Context, cpus []int) error {
	if err := runOn(cpus); err != nil {
		return err
	}
	tr.reader.Store(int32(unix.Gettid()))
	return tr.x.Run(ctx)
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

// stand has the reader stand still, with its next batch, until the function that it gives is called.
func (tr *trace) stand() (goOn func()) {
	block := make(chan struct{})
	tr.mu.Lock()
	defer tr.mu.Unlock()
	tr.block = block
	return func() {
		tr.mu.Lock()
		defer tr.mu.Unlock()
		tr.block = nil
		close(block)
	}
}

func (tr *trace) consume(_ context.Context, ld plog.Logs) error {
	tr.mu.Lock()
	block := tr.block
	tr.mu.Unlock()
	if block != nil {
		<-block
	}
	tr.mu.Lock()
	defer tr.mu.Unlock()
	for _, rl := range ld.ResourceLogs().All() {
		for _, sl := range rl.ScopeLogs().All() {
			for _, lr := range sl.LogRecords().All() {
				r := read(lr)
				tr.records = append(tr.records, r)
				tr.counts[r.PID]++
			}
		}
	}
	return nil
}

func read(lr plog.LogRecord) told {
	m := lr.Attributes()
	str := func(key string) string {
		if v, ok := m.Get(key); ok {
			return v.AsString()
		}
		return ""
	}
	num := func(key string) int64 {
		if v, ok := m.Get(key); ok {
			return v.Int()
		}
		return 0
	}
	seconds := func(key string) float64 {
		if v, ok := m.Get(key); ok {
			return v.Double()
		}
		return -1
	}
	flag := func(key string) bool {
		v, ok := m.Get(key)
		return ok && v.Bool()
	}
	user := func() int64 {
		if v, ok := m.Get(attrUser); ok {
			return v.Int()
		}
		return -1
	}
	end := func(addr, port string) netip.AddrPort {
		a, _ := netip.ParseAddr(str(addr))
		return netip.AddrPortFrom(a, uint16(num(port)))
	}
	return told{
		Event: lr.EventName(), PID: num(attrPID), Process: str(attrExecutable), User: user(), NetNS: num(attrNetNS),
		OwnerSource: str(attrOwnerSource), Role: str(attrRole),
		Local: end(attrLocalAddr, attrLocalPort), Peer: end(attrPeerAddr, attrPeerPort),
		Sent: num(attrBytesSent), Received: num(attrBytesRecv),
		Reason: str(attrReason), Initiator: str(attrInitiator), Error: str(attrErrorType),
		Preexisting: flag(attrPreexisting), Synthesized: flag(attrSynthesized),
		id: str(attrConnectionID), body: lr.Body().Str(), at: lr.Timestamp().AsTime(),
		duration: seconds(attrDuration), handshake: seconds(attrHandshake), rtt: seconds(attrRTT),
		segments: [2]int64{num(attrSegsSent), num(attrSegsRecv)}, resent: num(attrRetransmits),
	}
}

// count is how many records have been told of the processes.
func (tr *trace) count(pids ...int) (n int) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	for _, pid := range pids {
		n += tr.counts[int64(pid)]
	}
	return n
}

// of gives what has been told of the processes, in order.
func (tr *trace) of(pids ...int) (out []told) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	for _, r := range tr.records {
		for _, pid := range pids {
			if r.PID == int64(pid) {
				out = append(out, r)
			}
		}
	}
	return out
}

// await gives what has been told of the processes once that is n records.
func (tr *trace) await(n int, pids ...int) []told {
	tr.t.Helper()
	return tr.awaitWithin(20*time.Second, n, pids...)
}

func (tr *trace) awaitWithin(limit time.Duration, n int, pids ...int) []told {
	tr.t.Helper()
	for deadline := time.Now().Add(limit); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if tr.count(pids...) >= n {
			return tr.of(pids...)
		}
	}
	out := tr.of(pids...)
	if uint64(len(out))+tr.now().Unseen >= uint64(n) { // all but what the kernel has run no program for
		return out
	}
	tr.stop()
	tr.t.Fatalf("%d records of processes %v after %v, want %d; stats %+v; the last: %+v",
		len(out), pids, limit, n, tr.stats, out[max(0, len(out)-8):])
	return nil
}
