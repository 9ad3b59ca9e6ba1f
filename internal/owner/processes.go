package owner

import (
	"container/list"
	"time"
)

const (
	// maxProcesses is how many are remembered; beyond, those that nobody has asked for are forgotten. Most
	// take about a kilobyte.
	maxProcesses = 8192
	// retryAfter is how long it is remembered that a process could not be read.
	retryAfter = 10 * time.Second
	// patience bounds how long Find waits. The kernel waits for locks that a process in trouble holds: its
	// memory's, or that of all control groups.
	patience = 50 * time.Millisecond
	// maxSlow is how many such processes may be waited for at a time; meanwhile no other is read.
	maxSlow = 4
)

// unknown is a process of which nothing could be read.
var unknown = &Process{}

// Processes reads processes, each once, and remembers them. It is not safe for concurrent use.
type Processes struct {
	cfg      Config
	source   source
	blind    bool // the source is no use
	users    users
	redact   redactor
	patience time.Duration
	slots    chan struct{}
	entries  map[ID]*list.Element // of *entry
	recent   *list.List           // the one that was asked for last in front
}

type entry struct {
	process *Process

	introduced *Process // nil: it was not
	id         ID
	found      bool            // no more is to be found out
	coming     <-chan *Process // what took too long to wait for; nil: nothing did
	retry      time.Time       // when a process that was not found is to be read again
}

// New fails where pids that the kernel tells cannot be found in /proc: this process is not in the
// initial PID namespace, or there is no /proc. Then it gives Processes all the same, which know those
// that are introduced.
func New(cfg Config) (*Processes, error) {
	s, err := openSource()
	ps := newProcesses(cfg, s)
	ps.blind = err != nil
	return ps, err
}

func newProcesses(cfg Config, s source) *Processes {
	return &Processes{
		cfg: cfg, source: s, redact: newRedactor(cfg.Redact),
		users:    users{path: s.passwd()},
		patience: patience, slots: make(chan struct{}, maxSlow),
		entries: make(map[ID]*list.Element), recent: list.New(),
	}
}

// Find gives what is known of a process, which may be nothing, never what is another's. It takes some
// tens of microseconds the first time, and never much longer than 50 ms; what comes later is known
// then.
func (ps *Processes) Find(id ID) *Process {
	if id.PID == 0 {
		return unknown
	}
	e := ps.entry(id)
	if !e.found {
		ps.look(e)
	}
	return e.process
}

// Introduce is told what the kernel says of a process, which may have exited since, or execute something
// else now. Find then gives at least that. It waits like Find.
func (ps *Processes) Introduce(i Introduction) {
	e := ps.entry(i.ID)
	e.introduced = &Process{ParentPID: i.ParentPID, Executable: executable(i.Executable), Group: bestGroup(i.Groups)}
	e.process, e.found, e.coming, e.retry = e.introduced, false, nil, time.Time{}
	ps.look(e)
}

func (ps *Processes) entry(id ID) *entry {
	at, ok := ps.entries[id]
	if !ok {
		at = ps.recent.PushFront(&entry{id: id, process: unknown})
		ps.entries[id] = at
		if ps.recent.Len() > maxProcesses {
			ps.forget(ps.recent.Back())
		}
	}
	ps.recent.MoveToFront(at)
	return at.Value.(*entry)
}

func (ps *Processes) forget(at *list.Element) {
	delete(ps.entries, at.Value.(*entry).id)
	ps.recent.Remove(at)
}

// look reads a process, as long as it has patience.
func (ps *Processes) look(e *entry) {
	if e.coming != nil {
		select {
		case p := <-e.coming:
			e.settle(p)
		default:
		}
		return
	}
	if time.Now().Before(e.retry) {
		return
	}
	select {
	case ps.slots <- struct{}{}:
	default:
		return
	}
	coming := make(chan *Process, 1)
	go func(id ID, introduced *Process) {
		coming <- ps.choose(ps.read(id), id, introduced)
		<-ps.slots
	}(e.id, e.introduced)
	late := time.NewTimer(ps.patience)
	defer late.Stop()
	select {
	case p := <-coming:
		e.settle(p)
	case <-late.C:
		e.coming = coming
	}
}

func (e *entry) settle(p *Process) {
	e.coming, e.retry = nil, time.Now().Add(retryAfter)
	if p != unknown {
		e.process, e.found = p, true
	}
}

// choose gives what was read, unless that is nothing, or the process executes something else by now than
// when it was introduced: its connections were made by what it was then.
func (ps *Processes) choose(read *Process, id ID, introduced *Process) *Process {
	if introduced == nil || read != unknown && (introduced.Executable == "" || introduced.Executable == read.Executable) {
		return read
	}
	p := *introduced
	if !p.Group.contained() {
		p.User = ps.users.name(id.UID)
	}
	return &p
}

func (ps *Processes) read(id ID) *Process {
	if ps.blind {
		return unknown
	}
	from, err := ps.source.open(id)
	if err != nil {
		return unknown
	}
	defer from.close()
	p := &Process{
		ParentPID:  from.stat.parent,
		Executable: from.executable(),
		Group:      ParseGroups(from.text("cgroup", maxGroups)),
	}
	if ps.cfg.Environment {
		p.Attributes = attributes(from.text("environ", maxEnvironment))
	}
	if ps.cfg.CommandLine {
		p.Args = ps.redact.args(from.text("cmdline", maxCommand))
	}
	if !p.Group.contained() {
		p.User = ps.users.name(id.UID)
	}
	return p
}

// maxGroups bounds what is read of a /proc/PID/cgroup.
const maxGroups = 64 << 10
