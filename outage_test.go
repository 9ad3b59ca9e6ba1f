package main

import (
	"context"
	"encoding/json"
	"fmt"
	"hash/maphash"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"
	"google.golang.org/grpc"
	_ "google.golang.org/grpc/encoding/gzip" // what the program sends

	"github.com/connspan/connspan/internal/actor"
)

// outageEnv gives how long the server is down, as in 5m, at longRate connections a second. Without it
// the outages are a few seconds, with as many connections as go.
const (
	outageEnv = "CONNSPAN_TEST_OUTAGE"
	longRate  = 1000
	maxRSS    = 150 << 20
)

// crowdPort is where the crowds' servers listen, crowdsOnly the filter: what else happens on this host
// does not count.
var (
	crowdPort  = 10000 + os.Getpid()%10000
	crowdsOnly = fmt.Sprintf(`[{include: {port: [%d]}}, {exclude: {cidr: ["0.0.0.0/0", "::/0"]}}]`, crowdPort)
)

// receiver is an OTLP server that counts what it is sent, and can be down. It tells items by what they say.
type receiver struct {
	t       testing.TB
	address string
	server  *grpc.Server
	seed    maphash.Seed

	mu    sync.Mutex
	seen  map[uint64]int
	items int      // that came
	order []uint64 // of log records
}

// newReceiver returns a receiver that is down. Its port is below those that clients are given: nobody takes it
// meanwhile.
func newReceiver(t testing.TB, seed maphash.Seed, host string) *receiver {
	t.Helper()
	s := &receiver{t: t, seed: seed, seen: make(map[uint64]int)}
	for port := 20000 + os.Getpid()%10000; ; port++ {
		s.address = net.JoinHostPort(host, strconv.Itoa(port))
		l, err := net.Listen("tcp", s.address)
		if err != nil {
			continue
		}
		l.Close()
		t.Cleanup(s.down)
		return s
	}
}

func (s *receiver) up() {
	s.t.Helper()
	l, err := net.Listen("tcp", s.address)
	if err != nil {
		s.t.Fatal(err)
	}
	s.server = grpc.NewServer(grpc.MaxRecvMsgSize(64 << 20))
	plogotlp.RegisterGRPCServer(s.server, &receiverLogs{receiver: s})
	pmetricotlp.RegisterGRPCServer(s.server, &receiverMetrics{})
	ptraceotlp.RegisterGRPCServer(s.server, &receiverTraces{receiver: s})
	go func(server *grpc.Server) { _ = server.Serve(l) }(s.server)
}

func (s *receiver) down() {
	if s.server != nil {
		s.server.Stop()
		s.server = nil
	}
}

type receiverLogs struct {
	plogotlp.UnimplementedGRPCServer
	*receiver
}

func (s *receiverLogs) Export(_ context.Context, r plogotlp.ExportRequest) (plogotlp.ExportResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, rl := range r.Logs().ResourceLogs().All() {
		for _, sl := range rl.ScopeLogs().All() {
			for _, lr := range sl.LogRecords().All() {
				key := s.key(lr)
				s.seen[key]++
				s.items++
				s.order = append(s.order, key)
			}
		}
	}
	return plogotlp.NewExportResponse(), nil
}

func (s *receiver) key(lr plog.LogRecord) uint64 {
	return maphash.String(s.seed, fmt.Sprint(lr.EventName(), attr(lr, "tcp.connection.id"), attr(lr, "network.tcp.handshake.role"),
		attr(lr, "network.local.port"), attr(lr, "network.peer.port")))
}

type receiverTraces struct {
	ptraceotlp.UnimplementedGRPCServer
	*receiver
}

func (s *receiverTraces) Export(_ context.Context, r ptraceotlp.ExportRequest) (ptraceotlp.ExportResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, rs := range r.Traces().ResourceSpans().All() {
		for _, ss := range rs.ScopeSpans().All() {
			for _, span := range ss.Spans().All() {
				s.seen[maphash.Comparable(s.seed, span.SpanID())]++
				s.items++
			}
		}
	}
	return ptraceotlp.NewExportResponse(), nil
}

type receiverMetrics struct {
	pmetricotlp.UnimplementedGRPCServer
}

func (*receiverMetrics) Export(context.Context, pmetricotlp.ExportRequest) (pmetricotlp.ExportResponse, error) {
	return pmetricotlp.NewExportResponse(), nil
}

func (s *receiver) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.items
}

// distinct is the number of items, however often they came.
func (s *receiver) distinct() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.seen)
}

// quiet waits until nothing more comes, which is an audit later.
func (s *receiver) quiet() {
	s.t.Helper()
	items := 0
	for since, deadline := time.Now(), time.Now().Add(5*time.Minute); time.Since(since) < 3*time.Second || items == 0; time.Sleep(100 * time.Millisecond) {
		if n := s.count(); n != items {
			items, since = n, time.Now()
		}
		if time.Now().After(deadline) {
			s.t.Fatal("not quiet after 5 minutes")
		}
	}
}

// records are the keys of the log records, in the order in which they came.
func (s *receiver) records() []uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.order)
}

func (s *receiver) wantAll(keys []uint64) {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, key := range keys {
		if s.seen[key] == 0 {
			s.t.Fatalf("record %d of %d is lost", i, len(keys))
		}
	}
}

// compare tells how many items of the reference the receiver was not sent, and how many it was sent again.
func (s *receiver) compare(reference *receiver) (lost, again int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	reference.mu.Lock()
	defer reference.mu.Unlock()
	for key := range reference.seen {
		if s.seen[key] == 0 {
			lost++
		}
	}
	for key, n := range s.seen {
		again += max(n-max(reference.seen[key], 1), 0)
	}
	return lost, again
}

// outage is the program and a server that can be down. A second program, which is left alone, sends the
// same to a server that never is: what this one gets is what the other is to get.
type outage struct {
	*program  // that runs now
	t         *testing.T
	sink      *receiver
	reference *receiver
	config    string
	long      time.Duration // of an outage; 0: a few seconds
	peak      int64         // octets of memory, of the programs so far
}

// startOutage starts the program while its server is down. storage is a section of the configuration,
// queue the keys of sending_queue.
func startOutage(t *testing.T, storage, queue string) *outage {
	t.Helper()
	seed := maphash.MakeSeed()
	o := &outage{t: t, sink: newReceiver(t, seed, "127.0.0.1"), reference: newReceiver(t, seed, "127.0.0.2")}
	if long := os.Getenv(outageEnv); long != "" {
		var err error
		if o.long, err = time.ParseDuration(long); err != nil {
			t.Fatal(err)
		}
	}
	o.config = writeConfig(t, fmt.Sprintf(`
tracer: {audit: 1s}
filter: %s
telemetry: {address: ""}
storage: {%s}
exporters:
  otlp: {endpoint: %q, tls: {insecure: true}, timeout: 2m, sending_queue: {%s}} # a late answer must not make a request come twice
`, crowdsOnly, storage, o.sink.address, queue))
	o.reference.up()
	start(t, nil, mustBinary(t), "--config", writeConfig(t, fmt.Sprintf(`
tracer: {audit: 1s}
filter: %s
metrics: {interval: 0s}
telemetry: {address: ""}
exporters: {otlp: {endpoint: %q, tls: {insecure: true}, timeout: 2m, compression: none}}
`, crowdsOnly, o.reference.address))).await(tracing)
	o.start()
	return o
}

func (o *outage) start() {
	o.t.Helper()
	o.program = start(o.t, nil, mustBinary(o.t), "--config", o.config)
	o.await(tracing)
}

// load makes connections for a part of the outage.
func (o *outage) load(part time.Duration) {
	o.t.Helper()
	plan := actor.Plan{Listen: fmt.Sprint("127.7.7.7:", crowdPort), Request: 1, Reply: 1, How: actor.ClientCloses, Connections: longRate, Workers: 8}
	for begin, n := time.Now(), 1; ; n++ {
		crowd := actor.Start(o.t, "crowd", plan)
		crowd.Report()
		crowd.Wait()
		if part == 0 && n == 5 || part > 0 && time.Since(begin) > part {
			return
		}
		if part > 0 {
			time.Sleep(time.Until(begin.Add(time.Duration(n) * time.Second)))
		}
	}
}

// kill ends the program as the kernel does when memory is short.
func (o *outage) kill() {
	o.t.Helper()
	o.measure()
	_ = o.cmd.Process.Kill()
	<-o.gone
}

// end ends the program in order, and gives what it says of the signals of its exporter.
func (o *outage) end() map[string]account {
	o.t.Helper()
	o.measure()
	if err := o.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		o.t.Fatal(err)
	}
	<-o.gone
	if code := o.cmd.ProcessState.ExitCode(); code != 0 {
		o.t.Errorf("exit code %d:\n%s", code, o.log())
	}
	accounts := make(map[string]account)
	for _, m := range regexp.MustCompile(`export stopped\t(.*)`).FindAllStringSubmatch(o.log(), -1) {
		var a account
		if err := json.Unmarshal([]byte(m[1]), &a); err != nil {
			o.t.Fatal(err)
		}
		if sum := a.Sent + a.Rejected + a.Dropped + a.refused() + a.GivenUp + a.Queued; a.Offered+a.Recovered != sum || a.Queued < 0 {
			o.t.Errorf("does not add up: %+v", a)
		}
		accounts[a.Signal] = a
	}
	return accounts
}

// account is the last that the program says of an exporter.
type account struct {
	Exporter, Signal                                    string
	Offered, Recovered, Sent, Rejected, Dropped, Queued int
	Refused                                             map[string]int // by cause
	GivenUp                                             int            `json:"given_up"`
}

func (a account) refused() (n int) {
	for _, of := range a.Refused {
		n += of
	}
	return n
}

// measure looks at how much memory the program has needed.
func (o *outage) measure() {
	o.t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", o.cmd.Process.Pid))
	if err != nil {
		o.t.Fatal(err)
	}
	m := regexp.MustCompile(`VmHWM:\s+(\d+) kB`).FindSubmatch(b)
	if m == nil {
		o.t.Fatalf("no VmHWM in %s", b)
	}
	kilo, _ := strconv.ParseInt(string(m[1]), 10, 64)
	o.peak = max(o.peak, kilo<<10)
}

// check compares the servers, once both have everything. again is how many items may have come twice.
func (o *outage) check(again int) {
	o.t.Helper()
	lost, twice := o.sink.compare(o.reference)
	o.t.Logf("%d items, %d lost, %d twice, at most %d MiB of memory", o.reference.count(), lost, twice, o.peak>>20)
	if lost > 0 || twice > again {
		o.t.Errorf("%d lost and %d twice, want none and at most %d", lost, twice, again)
	}
	if o.long > 0 && o.peak > maxRSS {
		o.t.Errorf("%d MiB of memory, want at most %d", o.peak>>20, maxRSS>>20)
	}
}

// delivered waits until the server has all that the reference has.
func (o *outage) delivered() {
	o.t.Helper()
	begin, had := time.Now(), o.sink.count()
	o.reference.quiet()
	for deadline := begin.Add(2*time.Minute + 4*o.long); ; time.Sleep(200 * time.Millisecond) {
		if o.sink.distinct() < o.reference.distinct() && time.Now().Before(deadline) {
			continue // to compare them takes long, and the servers wait
		}
		lost, _ := o.sink.compare(o.reference)
		if lost == 0 {
			if seconds := time.Since(begin).Seconds(); seconds > 1 {
				o.t.Logf("%.0f items a second while the queues empty", float64(o.sink.count()-had)/seconds)
			}
			return
		}
		if time.Now().After(deadline) {
			o.t.Fatalf("%d of %d items not delivered:\n%s", lost, o.reference.count(), o.log())
		}
	}
}

// TestOutage: with storage, a server that is down costs nothing, whatever becomes of the program
// meanwhile. An item may come twice that was on its way when the program ended; while the server is down
// none is.
func TestOutage(t *testing.T) {
	for name, meanwhile := range map[string]func(*outage){
		"only the server": func(o *outage) {
			o.load(o.long)
			o.reference.quiet()
		},
		"killed": func(o *outage) {
			o.load(o.long / 2)
			o.reference.quiet()
			o.kill()
			o.start()
			o.load(o.long / 2)
			o.reference.quiet()
		},
		"stopped": func(o *outage) {
			o.load(o.long / 2)
			o.reference.quiet()
			if a := o.end()["logs"]; a.Queued != a.Offered {
				t.Errorf("stopped while its server is down: %+v", a)
			}
			o.start()
			o.load(o.long / 2)
			o.reference.quiet()
		},
	} {
		t.Run(name, func(t *testing.T) {
			directory := filepath.Join(t.TempDir(), "queues")
			o := startOutage(t, "directory: "+directory, "") // as large as it is unless told otherwise
			meanwhile(o)
			o.measure()
			t.Logf("%d items, %d MiB of queues, at most %d MiB of memory", o.reference.count(), sizeOf(t, directory)>>20, o.peak>>20)
			if lost, _ := o.sink.compare(o.reference); lost != o.reference.count() {
				t.Fatalf("%d of %d items are missing, want all: the server was not down", lost, o.reference.count())
			}
			o.sink.up()
			o.delivered()
			for signal, a := range o.end() {
				if a.GivenUp+a.Dropped+a.refused() != 0 {
					t.Errorf("%s: %+v", signal, a)
				}
			}
			o.check(0)
			if size := sizeOf(t, directory); size > 32<<20 {
				t.Errorf("%d MiB of queues are left", size>>20)
			}
		})
	}
}

// TestKilledWhileSending: a kill at any time loses nothing of what was in the queue, and makes at most
// what was on its way come twice.
func TestKilledWhileSending(t *testing.T) {
	o := startOutage(t, "directory: "+filepath.Join(t.TempDir(), "queues"), "")
	o.load(o.long)
	o.reference.quiet()
	const kills = 3
	for range kills {
		before := o.sink.count()
		o.sink.up()
		for o.sink.count() == before && o.sink.count() < o.reference.count() {
			time.Sleep(time.Millisecond)
		}
		o.kill()
		o.sink.down()
		o.start()
		o.reference.quiet()
	}
	o.sink.up()
	o.delivered()
	o.end()
	o.check(kills * 2 * 3000) // of each signal what is sent at once, 2 MiB
}

// TestOutageWithoutStorage: memory holds the oldest, and the rest is refused and counted.
func TestOutageWithoutStorage(t *testing.T) {
	const queueSize = 5000
	o := startOutage(t, "", fmt.Sprint("queue_size: ", queueSize))
	o.load(o.long)
	o.reference.quiet()
	o.sink.up()
	o.sink.quiet()
	a := o.end()["logs"]
	if a.Refused["queue_full"] == 0 || a.Sent < queueSize*8/10 || a.Dropped != 0 {
		t.Errorf("got %+v", a)
	}
	if came := len(o.sink.records()); a.Sent < came {
		t.Errorf("says that %d were sent, %d came", a.Sent, came)
	}
	o.sink.wantAll(o.reference.records()[:100])
	t.Logf("%d MiB of memory", o.peak>>20)
	if o.long > 0 && o.peak > maxRSS {
		t.Errorf("%d MiB of memory, want at most %d", o.peak>>20, maxRSS>>20)
	}
}

// TestStorageFull: a full storage holds the oldest too, stays within its bound, and takes the newest
// again once there is room.
func TestStorageFull(t *testing.T) {
	const maxSize = 16 << 20
	directory := filepath.Join(t.TempDir(), "queues")
	o := startOutage(t, "max_size: 16MiB, directory: "+directory, "")
	for sizeOf(t, directory) < maxSize*7/10 || !strings.Contains(o.log(), "run out of available space") {
		o.load(o.long)
	}
	o.reference.quiet()
	if size := sizeOf(t, directory); size > maxSize {
		t.Errorf("%d octets of queues, want at most %d", size, maxSize)
	}
	o.sink.up()
	for deadline := time.Now().Add(2 * time.Minute); sizeOf(t, directory) > maxSize/4; time.Sleep(100 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d octets of queues two minutes after the server is up", sizeOf(t, directory))
		}
	}
	o.sink.quiet()
	before := len(o.reference.records())
	// A few, for which there is room whatever else this host does.
	crowd := actor.Start(t, "crowd", actor.Plan{Listen: fmt.Sprint("127.7.7.7:", crowdPort), Request: 1, Reply: 1, How: actor.ClientCloses, Connections: 300, Workers: 2})
	crowd.Report()
	crowd.Wait()
	o.reference.quiet()
	o.sink.quiet()
	accounts := o.end()
	if a := accounts["logs"]; a.Refused["no_room"] == 0 {
		t.Errorf("counted nothing as refused: %+v", a)
	}
	for signal, a := range accounts {
		if a.GivenUp+a.Dropped+a.refused() != a.Refused["no_room"] {
			t.Errorf("%s: %+v", signal, a)
		}
	}
	reference := o.reference.records()
	o.sink.wantAll(reference[:100])
	o.sink.wantAll(reference[before:])
	if _, twice := o.sink.compare(o.reference); twice != 0 {
		t.Errorf("%d came twice", twice)
	}
}

func sizeOf(t *testing.T, directory string) (size int64) {
	t.Helper()
	err := filepath.WalkDir(directory, func(_ string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err == nil && info.Mode().IsRegular() {
			size += info.Size()
		}
		return nil // a file that is gone by now is gone
	})
	if err != nil {
		t.Fatal(err)
	}
	return size
}
