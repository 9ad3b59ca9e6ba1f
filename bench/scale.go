package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/connspan/connspan/internal/conn"
	"github.com/connspan/connspan/internal/event"
	"github.com/connspan/connspan/internal/merge"
	"github.com/connspan/connspan/internal/probe"
)

// measureScale shows how the cost grows with open connections, CPUs, processes and network namespaces.
func measureScale(ctx context.Context, s settings) (string, error) {
	record, err := sampleRecord(s)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	var all []aim
	for _, part := range []func(context.Context, settings, []byte) (string, *plot, []aim, error){
		scaleTable, scaleOpen, scaleCPUs, scaleProcesses,
	} {
		text, p, aims, err := part(ctx, s, record)
		if err != nil {
			return "", err
		}
		b.WriteString(text + "\n")
		if s.page != "" && p != nil {
			if err := p.draw(ctx, filepath.Dir(s.page)); err != nil {
				return "", err
			}
			fmt.Fprintf(&b, "![%s](%s)\n\n", p.Title, p.file())
		}
		all = append(all, aims...)
	}
	b.WriteString("Held against the aims:\n\n" + aims(all))
	return b.String(), nil
}

// sampleRecord gives the octets of a record, of a connection's opening, as the programs submit them.
func sampleRecord(s settings) (record []byte, err error) {
	t, err := probe.Load(probe.Config{})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, t.Close()) }()
	if err := t.Attach(); err != nil {
		return nil, err
	}
	pair, err := newChild("pair", true)
	if err != nil {
		return nil, err
	}
	var d done
	err = pair.ask(load{For: 10 * time.Millisecond, Threads: 1, Payload: s.payload}, &d)
	if err := errors.Join(err, pair.end()); err != nil {
		return nil, err
	}
	var e event.Event
	t.Drain(func(cpu int, sample []byte) {
		if event.Decode(sample, cpu, &e) == nil && e.Kind == event.Opened {
			record = append([]byte(nil), sample...)
		}
	})
	if record == nil {
		return nil, errors.New("making a record: no connection has been told of")
	}
	return record, nil
}

// scaleTable has connections open that are none: each is a record through decoder, merge and table.
func scaleTable(_ context.Context, _ settings, record []byte) (string, *plot, []aim, error) {
	rows := table{{"open connections in the table", "ns to enter each", "octets of heap each"}}
	p := &plot{Title: "Memory of the table of open connections", X: "open connections", Y: "octets of heap for each", LogX: true}
	var each float64
	for _, n := range []int{1000, 10_000, 100_000, 1_000_000} {
		progress("table: %d connections", n)
		took, octets, err := enter(record, n)
		if err != nil {
			return "", nil, nil, err
		}
		each = octets / float64(n)
		rows.add(fmt.Sprint(n), fmt.Sprintf("%.0f", float64(took.Nanoseconds())/float64(n)), fmt.Sprintf("%.0f", each))
		p.add("heap", float64(n), each)
	}
	return rows.String(), p, []aim{
		{"octets of heap for each of 1,000,000 open connections", spreadOf([]float64{each}), true, 400, "%.0f"},
	}, nil
}

// enter has n connections opened, and gives how long that took and what the heap has grown by.
func enter(record []byte, n int) (took time.Duration, octets float64, err error) {
	before := heap()
	m, err := merge.New(merge.Config{CPUs: 1})
	if err != nil {
		return 0, 0, err
	}
	t := conn.NewTable()
	tell := func(*conn.Record) {}
	var e event.Event
	began := time.Now()
	for i := range n {
		if err := event.Decode(record, 0, &e); err != nil {
			return 0, 0, err
		}
		e.Cookie, e.Seq, e.Time, e.Ordinal = uint64(i+1), uint64(i), uint64(i+1), 1
		m.Push(&e)
		if i%1000 == 999 || i == n-1 {
			m.Watermark(0, e.Time+2)
			m.Release(e.Time+2, func(e *event.Event) { t.Apply(e, tell) })
		}
	}
	took = time.Since(began)
	octets = float64(heap() - before)
	if open := t.Stats().Open; open != n {
		return 0, 0, fmt.Errorf("entering %d connections: %d are open", n, open)
	}
	return took, octets, nil
}

// heap is what is in use once all garbage is gone.
func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// scaleOpen starts connspan on a machine where so many connections are open already.
func scaleOpen(ctx context.Context, s settings, _ []byte) (_ string, _ *plot, all []aim, err error) {
	h, err := newHolders()
	if err != nil {
		return "", nil, nil, err
	}
	defer func() { err = errors.Join(err, h.close()) }()
	rows := table{{"ends of real connections", "s until all are known", "core·s for that", "RSS, MB", "MB of the kernel's memory", "% of a core after that"}}
	p := &plot{Title: "Memory with open connections", X: "ends of open connections", Y: "MB", LogX: true}
	for n := 1000; n <= s.open; n *= 10 {
		progress("open: %d ends", n)
		if err := h.hold(n / 2); err != nil {
			return "", nil, nil, err
		}
		o, err := takeIn(ctx, s, n)
		if err != nil {
			return "", nil, nil, err
		}
		rows.add(fmt.Sprint(n), fmt.Sprintf("%.2f", o.took.Seconds()), fmt.Sprintf("%.2f", o.processor.Seconds()),
			fmt.Sprintf("%.0f", o.resident), fmt.Sprintf("%.0f", o.kernel), fmt.Sprintf("%.2f", o.rest))
		p.add("connspan, RSS", float64(n), o.resident)
		p.add("kernel", float64(n), o.kernel)
		if n == 100_000 {
			all = append(all, aim{"s until 100,000 ends are known that are open at the start", spreadOf([]float64{o.took.Seconds()}), true, 5, "%.2f"})
		}
	}
	return rows.String(), p, all, nil
}

// taking is what it takes to take connections in that are open already.
type taking struct {
	took, processor  time.Duration
	resident, kernel float64 // MB
	rest             float64 // % of a core, once all are known
}

func takeIn(ctx context.Context, s settings, ends int) (o taking, err error) {
	slab, err := slabs()
	if err != nil {
		return o, err
	}
	began := time.Now()
	t, err := variant{name: "connspan", config: "logs: {events: []}\nmetrics: {interval: 5s}\n"}.start(s, "127.0.0.1:1", 0)
	if err != nil {
		return o, err
	}
	defer func() { err = errors.Join(err, t.stop()) }()
	if err := awaitOpen(ctx, t, ends); err != nil {
		return o, err
	}
	o.took = time.Since(began)
	if o.processor, err = processorTime(t.pid()); err != nil {
		return o, err
	}
	if o.rest, err = atWork(ctx, t, 5*time.Second); err != nil {
		return o, err
	}
	resident, _, err := memory(t.pid())
	if err != nil {
		return o, err
	}
	slabNow, err := slabs()
	o.resident, o.kernel = float64(resident)/1e6, float64(slabNow-slab)/1e6
	return o, err
}

// awaitOpen waits until connspan knows so many open connections.
func awaitOpen(ctx context.Context, t *tracer, ends int) error {
	for began := time.Now(); time.Since(began) < patience; {
		if err := pause(ctx, 20*time.Millisecond); err != nil {
			return err
		}
		c, err := t.counters(ctx)
		if err != nil {
			return err
		}
		if c.open >= float64(ends) {
			return nil
		}
	}
	return fmt.Errorf("connspan does not know %d connections after %v", ends, patience)
}

// atWork is how much of a core the tracer needs, in %, from a second on.
func atWork(ctx context.Context, t *tracer, during time.Duration) (float64, error) {
	if err := pause(ctx, time.Second); err != nil {
		return 0, err
	}
	before, err := processorTime(t.pid())
	if err != nil {
		return 0, err
	}
	if err := pause(ctx, during); err != nil {
		return 0, err
	}
	after, err := processorTime(t.pid())
	return 100 * (after - before).Seconds() / during.Seconds(), err
}

// scaleCPUs merges the streams of so many CPUs, each as busy as the others.
func scaleCPUs(ctx context.Context, _ settings, _ []byte) (string, *plot, []aim, error) {
	rows := table{{"CPUs", "ns/event", "allocations/event"}}
	p := &plot{Title: "Merge", X: "CPUs", Y: "ns for each event", LogX: true}
	var all []aim
	for cpus := 1; cpus <= 256; cpus *= 2 {
		progress("merge: %d CPUs", cpus)
		var took, allocations []float64
		for range 5 {
			ns, allocs, err := mergeStreams(cpus)
			if err := errors.Join(err, ctx.Err()); err != nil {
				return "", nil, nil, err
			}
			took, allocations = append(took, ns), append(allocations, allocs)
		}
		ns, allocs := spreadOf(took), spreadOf(allocations)
		rows.add(fmt.Sprint(cpus), ns.cell("%.0f"), allocs.cell("%.4f"))
		p.add("merge", float64(cpus), ns.median)
		if cpus == 64 {
			all = append(all, aim{"merge at 64 CPUs, ns for each event", ns, true, 150, "%.0f"},
				aim{"merge at 64 CPUs, allocations for each event", allocs, true, 0, "%.4f"})
		}
	}
	return rows.String(), p, all, nil
}

// mergeStreams has events go through a merge, in rounds of 4096, and gives the time for each, and how
// often memory was allocated. On each CPU one event in 16 is submitted behind the next, as where a softirq
// has interrupted a program.
func mergeStreams(cpus int) (ns, allocations float64, err error) {
	const rounds, perRound, gap = 300, 4096, 1000
	m, err := merge.New(merge.Config{CPUs: cpus})
	if err != nil {
		return 0, 0, err
	}
	var e event.Event
	yield := func(*event.Event) {}
	round := func(begin uint64) {
		for cpu := range cpus {
			for i := cpu; i < perRound; i += cpus {
				at := i
				if nth := i / cpus % 16; nth == 0 && i+cpus < perRound {
					at += cpus
				} else if nth == 1 {
					at -= cpus
				}
				e.Time, e.Seq, e.CPU = begin+uint64(at)*gap, uint64(at), uint16(cpu)
				m.Push(&e)
			}
			m.Watermark(cpu, begin+perRound*gap)
		}
		m.Release(begin+perRound*gap, yield)
	}
	round(gap) // the buffers grow
	before := mallocs()
	began := time.Now()
	for i := range uint64(rounds) {
		round((i + 2) * perRound * gap)
	}
	took := time.Since(began)
	if s := m.Stats(); s.Released != (rounds+1)*perRound || s.Late != 0 {
		return 0, 0, fmt.Errorf("merging %d events of %d CPUs: %d came out, %d of them late", (rounds+1)*perRound, cpus, s.Released, s.Late)
	}
	const events = rounds * perRound
	return float64(took.Nanoseconds()) / events, float64(mallocs()-before) / events, nil
}

// mallocs is how often memory has been allocated.
func mallocs() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.Mallocs
}

// scaleProcesses has the same number of connections come from more and more processes, and then from
// processes in more and more network namespaces.
func scaleProcesses(ctx context.Context, s settings, _ []byte) (string, *plot, []aim, error) {
	to, err := newChild("sink", false)
	if err != nil {
		return "", nil, nil, err
	}
	defer func() { err = errors.Join(err, to.end()) }()
	var sink taken
	if err := to.ask(looking{}, &sink); err != nil {
		return "", nil, nil, err
	}
	rows := table{{"", "µs of connspan's process/connection", "RSS, MB at most", "octets shipped/connection", "events lost", "records refused"}}
	p := &plot{Title: "Processor time of connspan with all signals", X: "processes, or namespaces", Y: "µs for each connection", LogX: true}
	for _, axis := range []struct {
		name     string
		isolated bool
		most     int
	}{{"processes", false, 1000}, {"namespaces", true, 100}} {
		for n := 1; n <= axis.most; n *= 10 {
			progress("%d %s", n, axis.name)
			c, err := crowd(ctx, s, to, sink.Address, n, axis.isolated)
			if err != nil {
				return "", nil, nil, err
			}
			rows.add(fmt.Sprintf("%d %s", n, axis.name), fmt.Sprintf("%.1f", c.micros), fmt.Sprintf("%.0f", c.resident),
				fmt.Sprintf("%.0f", c.shipped), number(c.lost), number(c.refused))
			p.add(axis.name, float64(n), c.micros)
		}
	}
	return rows.String(), p, nil, err
}

// crowded is what connspan needs where many processes connect.
type crowded struct {
	micros   float64 // of its process, for each connection
	resident float64 // MB
	shipped  float64 // octets for each connection
	counters
}

// crowd has n processes, each both ends of its connections, share a fixed rate of connections.
func crowd(ctx context.Context, s settings, to *child, address string, n int, alone bool) (c crowded, err error) {
	const rate = 2000
	pairs, err := newPairs(n, alone)
	defer func() { err = errors.Join(err, endAll(pairs...)) }()
	if err != nil {
		return c, err
	}
	t, err := variant{name: "connspan", config: everything}.start(s, address, 0)
	if err != nil {
		return c, err
	}
	defer func() { err = errors.Join(err, t.stop()) }()
	l := &lane{settings: s, sink: to}
	// All of them connect for a second before that: who they are is looked up when they are first seen.
	var u usage
	for _, window := range []time.Duration{time.Second, 4 * time.Second} {
		if _, err := l.swap(0); err != nil {
			return c, err
		}
		share := load{For: window, Rate: max(1, rate/n), Threads: 1, Payload: s.payload}
		if u, err = l.during(ctx, t, func() (done, error) { return together(pairs, share) }); err != nil {
			return c, err
		}
	}
	shipped, err := l.swap(0)
	if err != nil {
		return c, err
	}
	if c.counters, err = t.counters(ctx); err != nil {
		return c, err
	}
	_, resident, err := memory(t.pid())
	c.micros, c.resident = u.tracer.Seconds()*1e6/float64(u.Count), float64(resident)/1e6
	c.shipped = float64(shipped.Octets) / float64(u.Count)
	return c, err
}

// newPairs starts n pairs, each in a network namespace of its own, or all in the same new one. Where it
// fails it gives those that have been started.
func newPairs(n int, alone bool) (pairs []*child, err error) {
	start := func() error {
		for range n {
			pair, err := newChild("pair", alone)
			if err != nil {
				return err
			}
			pairs = append(pairs, pair)
		}
		return nil
	}
	if alone {
		err = start()
	} else {
		err = isolated(start)
	}
	return pairs, err
}

// together has all children bear the load at the same time, and gives what they have done.
func together(children []*child, l load) (all done, err error) {
	answers, errs := make([]done, len(children)), make([]error, len(children))
	var asking sync.WaitGroup
	for i, c := range children {
		asking.Go(func() { errs[i] = c.ask(l, &answers[i]) })
	}
	asking.Wait()
	for _, d := range answers {
		all.Count += d.Count
		all.Elapsed = max(all.Elapsed, d.Elapsed)
	}
	return all, errors.Join(errs...)
}
