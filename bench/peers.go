package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
)

// A usage is the processor time that has gone into something.
type usage struct {
	done
	machine time.Duration // of all processors, whoever used it
	tracer  time.Duration // of the tracer's process
	sink    time.Duration // of the sink's process
}

// wire is what the machine has used but for the sink: a tracer's job ends at the wire.
func (u usage) wire() float64 { return (u.machine - u.sink).Seconds() }

// micros is that, in µs for each connection.
func (u usage) micros() float64 { return u.wire() * 1e6 / float64(u.Count) }

func (u usage) rate() float64 { return float64(u.Count) / u.Elapsed.Seconds() }

// A sample is what one round has measured of one variant. Under each load it is NaN or empty where that
// was not measured.
type sample struct {
	flat, fixed, held usage // new connections flat out, at a fixed rate, and requests on open ones
	memory            float64
	counters
	missed  float64 // share of the ends of connections of which nothing was told
	bpf     float64 // µs in BPF programs for each connection
	runs    float64 // of BPF programs for each connection
	shipped float64 // octets for each connection, before compression
}

// A lane is where variants are measured, one after the other: load, tracer and sink.
type lane struct {
	settings
	client, server, sink *child
	ports                ports
	address              string // of the sink
}

func newLane(s settings) (*lane, error) {
	l := &lane{settings: s}
	err := isolated(func() (err error) {
		if l.server, err = newChild("server", false); err != nil {
			return err
		}
		l.client, err = newChild("client", false)
		return err
	})
	if err == nil {
		l.sink, err = newChild("sink", false)
	}
	if err == nil {
		err = l.server.ask(struct{}{}, &l.ports)
	}
	if err == nil {
		var t taken
		t, err = l.swap(0)
		l.address = t.Address
	}
	if err != nil {
		return nil, errors.Join(err, l.close())
	}
	return l, nil
}

func (l *lane) close() error { return endAll(l.client, l.server, l.sink) }

// port is the server's for new connections.
func (l *lane) port() int { return l.ports.of(l.payload) }

// swap asks the sink what has come, and has it look at the connections to a port from now on; 0: at none.
func (l *lane) swap(port int) (t taken, err error) {
	err = l.sink.ask(looking{port}, &t)
	return t, err
}

// fresh is a load of new connections, at a rate or flat out.
func (l *lane) fresh(rate int, window time.Duration) load {
	return load{Port: l.port(), For: window, Rate: rate, Threads: threads, Payload: l.payload}
}

// other is a short load of connections to another port than those of fresh.
func (l *lane) other() load {
	o := l.fresh(0, l.window/8)
	if o.Port, o.Payload = l.ports.Bare, 0; l.payload == 0 {
		o.Port, o.Payload = l.ports.Echo, 1
	}
	return o
}

// talk is a load of requests on connections that stay open.
func (l *lane) talk() load {
	return load{Port: l.ports.Echo, For: l.window / 2, Threads: threads, Payload: 1024, Held: maxHeld}
}

// times reads all clocks of processor time.
func (l *lane) times(t *tracer) (u usage, err error) {
	if u.machine, err = machineTime(); err != nil {
		return u, err
	}
	if u.sink, err = processorTime(l.sink.pid()); err != nil || t == nil {
		return u, err
	}
	u.tracer, err = processorTime(t.pid())
	return u, err
}

// under has the client bear a load, and gives what that took.
func (l *lane) under(ctx context.Context, t *tracer, load load) (usage, error) {
	return l.during(ctx, t, func() (d done, err error) {
		err = l.client.ask(load, &d)
		return d, err
	})
}

// during gives what it took to do something, up to when the tracer has come to rest: what it has put off
// counts.
func (l *lane) during(ctx context.Context, t *tracer, do func() (done, error)) (u usage, err error) {
	before, err := l.times(t)
	if err != nil {
		return u, err
	}
	if u.done, err = do(); err != nil {
		return u, err
	}
	if err := l.settle(ctx, t); err != nil {
		return u, err
	}
	after, err := l.times(t)
	u.machine, u.tracer, u.sink = after.machine-before.machine, after.tracer-before.tracer, after.sink-before.sink
	return u, err
}

// settle waits until tracer and sink do next to nothing.
func (l *lane) settle(ctx context.Context, t *tracer) error {
	const step = 100 * time.Millisecond
	before, err := l.times(t)
	for range 100 {
		if err = errors.Join(err, ctx.Err()); err != nil {
			return err
		}
		time.Sleep(step)
		var now usage
		now, err = l.times(t)
		if now.tracer+now.sink-before.tracer-before.sink < step/50 {
			return err
		}
		before = now
	}
	return err // it does much all the time
}

// measure runs one variant through the loads.
func (l *lane) measure(ctx context.Context, v variant) (s sample, err error) {
	s.missed, s.bpf, s.runs = math.NaN(), math.NaN(), math.NaN()
	t, err := v.start(l.settings, l.address, 0)
	if err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, t.stop()) }()
	if _, err := l.under(ctx, t, l.fresh(0, l.window/8)); err != nil { // its caches are filled now
		return s, err
	}
	if _, err := l.swap(0); err != nil {
		return s, err
	}
	if s.flat, err = l.under(ctx, t, l.fresh(0, l.window)); err != nil {
		return s, err
	}
	shipped, err := l.swap(0)
	if err != nil {
		return s, err
	}
	s.shipped = float64(shipped.Octets) / float64(s.flat.Count)
	if s.fixed, err = l.under(ctx, t, l.fresh(l.rate, l.window)); err != nil {
		return s, err
	}
	if s.held, err = l.under(ctx, t, l.talk()); err != nil || t == nil {
		return s, err
	}
	_, most, err := memory(t.pid())
	s.memory = float64(most) / 1e6
	if err == nil {
		s.counters, err = t.counters(ctx)
	}
	return s, err
}

// count runs one variant flat out with everything counted that costs something to count: the time of BPF
// programs, and what is told.
func (l *lane) count(ctx context.Context, v variant) (s sample, err error) {
	t, err := v.start(l.settings, l.address, l.port())
	if err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, t.stop()) }()
	if _, err := l.under(ctx, t, l.other()); err != nil { // from here on it is attached
		return s, err
	}
	before, err := t.counters(ctx)
	if err != nil {
		return s, err
	}
	if _, err := l.swap(l.port()); err != nil {
		return s, err
	}
	run, runs, _, err := programs(t.pid())
	if err != nil {
		return s, err
	}
	if s.flat, err = l.under(ctx, t, l.fresh(0, l.window/2)); err != nil {
		return s, err
	}
	runEnd, runsEnd, _, err := programs(t.pid())
	if err != nil {
		return s, err
	}
	s.bpf = float64((runEnd - run).Nanoseconds()) / 1e3 / float64(s.flat.Count)
	s.runs = float64(runsEnd-runs) / float64(s.flat.Count)
	if s.counters, err = t.counters(ctx); err != nil {
		return s, err
	}
	if err := t.stop(); err != nil { // it prints or sends the last of it now
		return s, err
	}
	told, err := l.swap(0)
	if err != nil {
		return s, err
	}
	ends := int(t.ends.Load())
	switch {
	case v.name == ringsRead:
		ends = t.closedAtEnd() - int(before.closed)
	case v.config != "":
		ends = told.Ends
	}
	s.missed = 1 - float64(ends)/float64(2*s.flat.Count)
	return s, nil
}

// results are the samples of each variant, one for each round, and one of the round that counts.
type results struct {
	settings
	rounds  map[string][]sample
	counted map[string]sample
}

func measurePeers(ctx context.Context, s settings) (text string, err error) {
	l, err := newLane(s)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, l.close()) }()
	r := results{s, map[string][]sample{}, map[string]sample{}}
	for round := range s.rounds {
		for i := range variants {
			v := variants[(i+round)%len(variants)] // who follows whom must not matter, nor what the host does
			progress("round %d of %d: %s", round+1, s.rounds, v.name)
			sample, err := l.measure(ctx, v)
			if err != nil {
				return "", fmt.Errorf("%s: %w", v.name, err)
			}
			r.rounds[v.name] = append(r.rounds[v.name], sample)
		}
	}
	err = withStatistics(func() error {
		for _, v := range variants[1:] {
			progress("counting: %s", v.name)
			if r.counted[v.name], err = l.count(ctx, v); err != nil {
				return fmt.Errorf("%s: %w", v.name, err)
			}
		}
		return nil
	})
	return r.text(), err
}

// spread is that of what f makes of a variant's sample and of that without a tracer, of the same round.
func (r results) spread(name string, f func(s, none sample) float64) spread {
	var values []float64
	for i, s := range r.rounds[name] {
		values = append(values, f(s, r.rounds[none][i]))
	}
	return spreadOf(values)
}

// added is the processor time that a tracer adds to a connection, flat out, in µs.
func added(s, none sample) float64 { return s.flat.micros() - none.flat.micros() }

// share is the rate of connections that is left.
func share(s, none sample) float64 { return s.flat.rate() / none.flat.rate() }

// wireShare is the same if the sink were on another host: without the time that it took from the rest.
func (r results) wireShare(s, none sample) float64 {
	free := 1 - s.flat.sink.Seconds()/s.flat.machine.Seconds()
	return share(s, none) / free
}

// cores is the processor time that a tracer adds at the fixed rate, per second. It is not a number where that
// rate has not been reached.
func (r results) cores(s, none sample) float64 {
	if least := 0.95 * float64(r.rate); s.fixed.rate() < least || none.fixed.rate() < least {
		return math.NaN()
	}
	return (s.fixed.wire() - none.fixed.wire()) / s.fixed.Elapsed.Seconds()
}

func (r results) text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d rounds of %v; in brackets the lowest and the highest.\n", len(r.rounds[none]), r.window)
	fmt.Fprintf(&b, "\nFlat out:\n\n%s", r.flatOut())
	fmt.Fprintf(&b, "\nAt %d connections a second, and with %d connections that stay open:\n\n%s", r.rate, maxHeld, r.paced())
	fmt.Fprintf(&b, "\nIn the kernel, and whether all of it arrives:\n\n%s", r.kernel())
	fmt.Fprintf(&b, "\nHeld against the aims:\n\n%s", aims(r.aims()))
	return b.String()
}

func (r results) flatOut() string {
	t := table{{"", "connections/s", "share of no tracer", "the same, sink elsewhere", "added µs/connection", "tracer's process, µs", "sink's process, µs"}}
	for _, v := range variants {
		per := func(of func(usage) time.Duration) string {
			return r.spread(v.name, func(s, _ sample) float64 { return of(s.flat).Seconds() * 1e6 / float64(s.flat.Count) }).cell("%.1f")
		}
		rate := r.spread(v.name, func(s, _ sample) float64 { return s.flat.rate() }).cell("%.0f")
		if v.name == none {
			base := r.spread(none, func(s, _ sample) float64 { return s.flat.micros() }).cell("%.1f")
			t.add(v.name, rate, "1", "1", "of "+base, "", "")
			continue
		}
		t.add(v.name, rate, r.spread(v.name, share).cell("%.2f"), r.spread(v.name, r.wireShare).cell("%.2f"),
			r.spread(v.name, added).cell("%.1f"),
			per(func(u usage) time.Duration { return u.tracer }), per(func(u usage) time.Duration { return u.sink }))
	}
	return t.String()
}

func (r results) paced() string {
	t := table{{"", "connections/s", "cores added", "cores of the tracer's process", "requests/s, share of no tracer", "RSS, MB at most"}}
	for _, v := range variants {
		rate := r.spread(v.name, func(s, _ sample) float64 { return s.fixed.rate() }).cell("%.0f")
		if v.name == none {
			base := r.spread(none, func(s, _ sample) float64 { return s.fixed.wire() / s.fixed.Elapsed.Seconds() }).cell("%.2f")
			t.add(v.name, rate, "to "+base, "", "1", "")
			continue
		}
		t.add(v.name, rate, r.spread(v.name, r.cores).cell("%.2f"),
			r.spread(v.name, func(s, _ sample) float64 { return s.fixed.tracer.Seconds() / s.fixed.Elapsed.Seconds() }).cell("%.2f"),
			r.spread(v.name, func(s, none sample) float64 { return s.held.rate() / none.held.rate() }).cell("%.2f"),
			r.spread(v.name, func(s, _ sample) float64 { return s.memory }).cell("%.0f"))
	}
	return t.String()
}

func (r results) kernel() string {
	t := table{{"", "BPF ns/connection", "program runs/connection", "events lost", "records refused", "ends not told of, per million", "order violations", "shipped octets/connection"}}
	for _, v := range variants[1:] {
		c := r.counted[v.name]
		t.add(v.name, number(c.bpf*1e3), fmt.Sprintf("%.1f", c.runs),
			number(r.total(v.name, func(s sample) float64 { return s.lost })),
			number(r.total(v.name, func(s sample) float64 { return s.refused })), number(c.missed*1e6),
			number(r.total(v.name, func(s sample) float64 { return s.violations })),
			r.spread(v.name, func(s, _ sample) float64 { return s.shipped }).cell("%.0f"))
	}
	return t.String()
}

func number(n float64) string { return spreadOf([]float64{n}).cell("%.0f") }

// total is over all rounds.
func (r results) total(name string, of func(sample) float64) (sum float64) {
	for _, s := range append(slices.Clone(r.rounds[name]), r.counted[name]) {
		sum += of(s)
	}
	return sum
}

func (r results) aims() []aim {
	theirs := r.spread(tcplife, added).median
	if theirs <= 0 { // the machine was busy with something else
		theirs = math.NaN()
	}
	beside := func(name string) spread {
		return r.spread(name, func(s, none sample) float64 { return added(s, none) / theirs })
	}
	var lost, refused, violations float64
	for _, name := range []string{ringsRead, closed, logs, all} {
		lost += r.total(name, func(s sample) float64 { return s.lost })
		refused += r.total(name, func(s sample) float64 { return s.refused })
		violations += r.total(name, func(s sample) float64 { return s.violations })
	}
	one := func(v float64) spread { return spreadOf([]float64{v}) }
	return []aim{
		{"closed logs: added time, of what tcplife adds", beside(closed), true, 1.0 / 3, "%.2f"},
		{"opened and closed logs: the same", beside(logs), true, 1.0 / 2, "%.2f"},
		{"all signals: the same", beside(all), true, 1, "%.2f"},
		{"BPF time, of tcplife's", one(r.counted[ringsRead].bpf / r.counted[tcplife].bpf), true, 0.1, "%.2f"},
		{"flat out, rings read: share of the rate without a tracer", r.spread(ringsRead, share), false, 0.95, "%.2f"},
		{"flat out, opened and closed logs: the same, sink elsewhere", r.spread(logs, r.wireShare), false, 0.80, "%.2f"},
		{"events lost, in all rounds with connspan", one(lost), true, 0, "%.0f"},
		{"records refused, likewise", one(refused), true, 0, "%.0f"},
		{"order violations, likewise", one(violations), true, 0, "%.0f"},
		{fmt.Sprintf("cores added at %d connections/s, opened and closed logs", r.rate), r.spread(logs, r.cores), true, 0.2, "%.2f"},
		{"RSS, MB, all signals", r.spread(all, func(s, _ sample) float64 { return s.memory }), true, 60, "%.0f"},
	}
}
