package exporter

import (
	"cmp"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/connspan/connspan/internal/actor"
	"github.com/connspan/connspan/internal/conn"
	"github.com/connspan/connspan/internal/coverage"
	"github.com/connspan/connspan/internal/event"
)

// A scenario is one corner case of TCP. docs/semantics.md says of each what is told, and why.
type scenario struct {
	name string
	run  func(*scene)
}

// scenarios are in the order of docs/semantics.md.
var scenarios = slices.Concat(pairScenarios, connectScenarios, acceptScenarios, closeScenarios, vanishScenarios, reuseScenarios,
	ownerScenarios, kernelScenarios, tracerScenarios)

// TestScenario makes each corner case with real sockets, in a network namespace of its own, and wants
// exactly the records that there are to be, and of the kernel's own counters that they agree. One alone:
// go test ./exporter -run 'Scenario/C12'.
func TestScenario(t *testing.T) {
	s := &suite{t: t, tr: startTrace(t, undisturbed), blind: actor.Blind(t), kernel: map[string]int64{}, seen: map[string]int64{}, explained: map[string]int64{}}
	t.Cleanup(s.count)
	for _, sc := range scenarios {
		t.Run(sc.name, func(t *testing.T) { s.play(t, sc) })
	}
}

// undisturbed by the rest of the host, and by audits, which find owners by what they have open.
func undisturbed(cfg *Config) { cfg.Tracer.RingSize, cfg.Tracer.Audit = 16<<20, time.Hour }

// suite is what all scenarios share.
type suite struct {
	t            *testing.T
	tr           *trace
	blind        func() int
	ran, failed  int
	skipped      []string         // with their reasons
	repeated     []string         // likewise
	kernel, seen map[string]int64 // totals of all scenarios: what the kernel has counted, and what was told of that
	explained    map[string]int64 // the rest, of which the scenarios say why
}

// replays is how often a scenario is played again that could not be seen as it was: what a kernel does not
// run programs for it cannot show.
const replays = 2

// unseen is what excuse panics with, and says why.
type unseen string

// play has a scenario happen and judges it.
func (s *suite) play(t *testing.T, sc scenario) {
	var sn *scene
	t.Cleanup(func() {
		switch {
		case t.Failed():
			s.failed++
		case t.Skipped():
			s.skipped = append(s.skipped, sc.name+": "+sn.lacks)
		default:
			s.ran++
		}
	})
	for left := replays; ; left-- {
		sn = s.enter(t)
		sn.replays = left
		why := s.attempt(sn, sc)
		if why == "" {
			break
		}
		s.repeated = append(s.repeated, fmt.Sprintf("%s: %s", sc.name, why))
	}
	s.t.Cleanup(func() { s.checkQuiet(sn) }) // before the namespace is released
}

// attempt says why the scenario could not be seen as it was, and nothing where it could.
func (s *suite) attempt(sn *scene, sc scenario) (why unseen) {
	defer func() {
		if r := recover(); r != nil {
			var ok bool
			if why, ok = r.(unseen); !ok {
				panic(r)
			}
		}
	}()
	sc.run(sn)
	sn.compareCounters(s)
	return ""
}

// enter makes a scene: a network namespace of which the kernel's counters are known.
func (s *suite) enter(t *testing.T) *scene {
	ns := actor.NewNetNS(s.t)
	sn := &scene{t: t, tr: s.tr, ns: ns.For(t), explained: map[string]int64{}}
	sn.netns = sn.ns.Inode()
	blind, before := s.blind(), s.tr.now()
	sn.excuses = func() (unseen, lost int) {
		now := s.tr.now()
		return s.blind() - blind + int(now.Unseen-before.Unseen), int(now.Lost - before.Lost)
	}
	sn.began = time.Now()
	return sn
}

// count says how many scenarios there were.
func (s *suite) count() {
	s.t.Logf("measured: scenarios: %d run, %d skipped with reason, %d failed", s.ran, len(s.skipped), s.failed)
	for _, reason := range s.skipped {
		s.t.Logf("measured: skipped: %s", reason)
	}
	for _, reason := range s.repeated {
		s.t.Logf("measured: played again: %s", reason)
	}
	for name, n := range s.kernel {
		if n != s.seen[name]+s.explained[name] {
			s.t.Errorf("%s: the kernel has counted %d, the records make %d, and %d are explained", name, n, s.seen[name], s.explained[name])
		}
	}
	s.t.Logf("measured: the kernel counted %v, the records make %v, and the scenarios explain %v", s.kernel, s.seen, s.explained)
}

// scene is where one scenario happens.
type scene struct {
	t      *testing.T
	tr     *trace
	ns     *actor.NetNS
	netns  int64
	began  time.Time // what is older is of a namespace that had the same inode
	lacks  string    // why it is skipped
	wanted int       // records so far
	mine   []told    // found so far, of the first so many of the trace's
	read   int
	// excuses are, since the scene began, the state changes for which the kernel has run no program, and
	// the events for which other traffic on the host has left no room.
	excuses func() (unseen, lost int)
	replays int // left
	// explained is what the kernel counts more than the records of this scenario say, by the counter's name.
	explained map[string]int64
}

func (s *scene) caller() *actor.Caller { return s.ns.Caller() }

// records are those of the namespace, in order.
func (s *scene) records() []told {
	s.tr.mu.Lock()
	defer s.tr.mu.Unlock()
	for _, r := range s.tr.records[s.read:] {
		if r.NetNS == s.netns && r.at.After(s.began) {
			s.mine = append(s.mine, r)
		}
	}
	s.read = len(s.tr.records)
	return slices.Clone(s.mine)
}

// await gives the records once there are n.
func (s *scene) await(n int) (got []told) {
	s.t.Helper()
	s.wanted = n
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if got = s.records(); len(got) >= n {
			return got
		}
	}
	s.excuse()
	s.t.Fatalf("%d records after 20 s, want %d: %+v", len(got), n, got[max(0, len(got)-8):])
	return nil
}

// checkQuiet: when all scenarios are over, nothing has been told of this one behind its back.
func (s *suite) checkQuiet(sn *scene) {
	if unseen, lost := sn.excuses(); unseen+lost > 0 {
		return // what is missing has been put right since, by other records
	}
	if got := len(sn.records()); got != sn.wanted {
		s.t.Errorf("%s: %d records by the end of all scenarios, want %d", sn.t.Name(), got, sn.wanted)
	}
}

// expect wants that these are the records so far, and no others, in this order for each end.
func (s *scene) expect(want ...told) []told {
	s.t.Helper()
	for i := range want {
		want[i].NetNS = s.netns
	}
	got := byEnd(s.await(len(want)))
	if d := gocmp.Diff(byEnd(want), got, cmpopts.IgnoreUnexported(told{}), cmpopts.EquateComparable(netip.AddrPort{})); d != "" {
		s.excuse()
		s.t.Fatalf("records (-want +told):\n%s", d)
	}
	checkPlausible(s.t, got)
	checkNames(s.t, got)
	return got
}

// excuse has the scenario played again where it could not be seen as it was. It returns where it could, and
// where it has been played often enough: then the mismatch counts.
func (s *scene) excuse() {
	s.t.Helper()
	if changes, lost := s.excuses(); changes+lost > 0 && s.replays > 0 && !s.t.Failed() {
		panic(unseen(fmt.Sprintf("the kernel ran no program for %d state changes, and the host's other traffic left no room for %d events", changes, lost)))
	}
}

// byEnd sorts by the end that is told of, and leaves the order of each end's records.
func byEnd(records []told) []told {
	sorted := slices.Clone(records)
	slices.SortStableFunc(sorted, func(a, b told) int {
		return cmp.Or(a.Local.Compare(b.Local), a.Peer.Compare(b.Peer), cmp.Compare(a.Role, b.Role))
	})
	return sorted
}

// checkPlausible: times are in order, and no record has what it cannot know.
func checkPlausible(t *testing.T, sorted []told) {
	t.Helper()
	for i, r := range sorted {
		if i > 0 && r.Event == nameClose && r.Local == sorted[i-1].Local && r.Peer == sorted[i-1].Peer && r.Role == sorted[i-1].Role &&
			r.at.Before(sorted[i-1].at) {
			t.Errorf("closed at %v, before it opened", r.at)
		}
		if r.Event == nameClose && !r.Preexisting && !r.Synthesized && r.duration < 0 {
			t.Errorf("%+v: no duration", r)
		}
	}
}

// checkNames: both ends of a connection tell of it by the same name, and nobody else does.
func checkNames(t *testing.T, records []told) {
	t.Helper()
	names := map[[2]netip.AddrPort]map[string]map[string]bool{}
	for _, r := range records {
		if r.Event == nameFailed {
			continue // no name without both sequence numbers
		}
		tuple := [2]netip.AddrPort{r.Local, r.Peer}
		if r.Role == "server" {
			slices.Reverse(tuple[:])
		}
		if names[tuple] == nil {
			names[tuple] = map[string]map[string]bool{}
		}
		if names[tuple][r.Role] == nil {
			names[tuple][r.Role] = map[string]bool{}
		}
		names[tuple][r.Role][r.id] = true
	}
	for tuple, ends := range names {
		if len(ends) == 2 && !gocmp.Equal(ends["client"], ends["server"]) {
			t.Errorf("%v: connection ids %v", tuple, ends)
		}
		for role := range ends {
			if ends[role][""] {
				t.Errorf("%v: no connection id at the %s", tuple, role)
			}
		}
	}
}

// compareCounters holds the kernel's own counters against what was told.
func (s *scene) compareCounters(all *suite) {
	s.t.Helper()
	want := inKernelsTerms(s.records())
	for name, n := range s.explained {
		want[name] += n
	}
	var got map[string]int64
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if got = s.counters(); gocmp.Equal(want, got) {
			break
		}
	}
	if d := gocmp.Diff(want, got); d != "" {
		s.excuse()
		s.t.Errorf("the kernel's counters (-by the records +by the kernel):\n%s", d)
	}
	for name := range want {
		all.kernel[name] += got[name]
		all.seen[name] += want[name] - s.explained[name]
		all.explained[name] += s.explained[name]
	}
}

// inKernelsTerms is what the kernel is to have counted; internal/coverage says when it does. A record does not
// tell the state that was left: one with an error is taken to have left ESTABLISHED.
func inKernelsTerms(records []told) map[string]int64 {
	var n coverage.Counters
	for _, r := range records {
		e := event.Event{Time: 1, Began: 1, Established: 1, SegsOut: 1, OldState: event.LastAck, Closer: event.CloserPeer}
		e.Role, _ = roleOf(r.Role)
		switch r.Event {
		case nameOpen:
			e.Kind = event.Opened
		case nameClose:
			e.Kind = event.Closed
			if r.Error != "" {
				e.OldState = event.Established
			}
		case nameFailed:
			e.Kind, e.OldState = event.Failed, event.SynSent
			switch r.Error {
			case "address_not_available": // before its SYN
				e.SegsOut = 0
			case "interrupted", "connection_aborted":
			default:
				e.Errno = 1
			}
		}
		n.Add(&conn.Record{Event: &e}, 0)
	}
	return byName(n)
}

func byName(n coverage.Counters) map[string]int64 {
	return map[string]int64{
		"active_opens": n.ActiveOpens, "passive_opens": n.PassiveOpens, "attempt_fails": n.AttemptFails,
		"estab_resets": n.EstabResets, "curr_estab": n.CurrEstab,
	}
}

// counters are the kernel's, of the scene's namespace, which has been made for the scene.
func (s *scene) counters() (all map[string]int64) {
	s.t.Helper()
	s.ns.Do("reading the kernel's counters", func() error {
		n, err := coverage.Read("/proc/thread-self/net/snmp")
		all = byName(n)
		return err
	})
	return all
}

// needs skips the scenario, and says what the kernel lacks.
func (s *scene) needs(has bool, what string) {
	s.t.Helper()
	if !has {
		s.lacks = "needs " + what
		s.t.Skip(s.lacks)
	}
}

// The parts that expectations are made of.

// program is what the records call the processes of this test.
var program = func() string {
	self, err := os.Executable()
	if err != nil {
		return err.Error()
	}
	return filepath.Base(self)
}()

// client and server are an end of which the owner is known by its connect or by its listener's listen.
func client(k *actor.Socket) told { return of(k, "client", "connect") }
func server(k *actor.Socket) told { return of(k, "server", "listen") }

func of(k *actor.Socket, role, source string) told {
	return owned(told{Role: role, Local: k.Local, Peer: k.Peer}, k.By, source)
}

// owned is the same end with another owner.
func owned(e told, by *actor.Caller, source string) told {
	e.PID, e.Process, e.User, e.OwnerSource = int64(by.PID()), program, int64(os.Getuid()), source
	return e
}

// turned is an end as the other one sees it.
func turned(k *actor.Socket) *actor.Socket {
	other := *k
	other.Local, other.Peer = k.Peer, k.Local
	return &other
}

func opened(e told) told {
	e.Event = nameOpen
	return e
}

func closed(e told, sent, received int64, how end) told {
	e.Event, e.Sent, e.Received, e.Reason, e.Initiator, e.Error = nameClose, sent, received, how.Reason, how.Initiator, how.Error
	return e
}

func failed(e told, errorType string) told {
	e.Event, e.Error = nameFailed, errorType
	return e
}

// whole is both records of an end.
func whole(e told, sent, received int64, how end) []told {
	return []told{opened(e), closed(e, sent, received, how)}
}

// end is what one end of a connection is to tell at its close.
type end struct {
	Reason, Initiator, Error string
}

var (
	orderly = map[string]end{
		"local": {"fin", "local", ""},
		"peer":  {"fin", "peer", ""},
	}
	resets        = end{"reset_sent", "local", "connection_aborted"}
	isReset       = end{"reset_received", "peer", "connection_reset"}
	timesOut      = end{"timeout", "local", "timed_out"}
	disconnects   = end{"disconnect", "local", "connection_aborted"}
	isNotAccepted = end{"listener_closed", "local", "connection_aborted"}
)

const anyPort = "127.0.0.1:0"

// connected is a connection between two processes, or within one.
func connected(from, to *actor.Caller) (c, a *actor.Socket) {
	l := to.Listen(anyPort, 16)
	c = from.Dial(l.Local)
	a = l.Accept()
	l.Close()
	return c, a
}

// hangUp closes both ends, one after the other has heard of it.
func hangUp(first, second *actor.Socket) {
	first.Close()
	second.Read(0)
	second.Close()
}

// exchange has a request and a reply go over a connection, the client's end close it, and all of it told.
func (s *scene) exchange(c, a *actor.Socket) {
	s.t.Helper()
	c.Write(120)
	a.Read(120)
	a.Write(300)
	c.Read(300)
	hangUp(c, a)
	s.expect(slices.Concat(whole(client(c), 120, 300, orderly["local"]), whole(server(a), 300, 120, orderly["peer"]))...)
}

func errnoIs(t *testing.T, what string, got, want error) {
	t.Helper()
	if got != want { //nolint:errorlint // numbers, both
		t.Fatalf("%s: %v, want %v", what, got, want)
	}
}
