package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// atRest is what tracers do with nothing to do; connspan with its defaults too.
var atRest = []variant{
	{name: "connspan, its defaults", config: "# nothing else\n"},
	named(ringsRead),
	named(logs),
	named(tcplife),
	named(tcpstates),
	named(bpftrace),
}

// measureIdle looks at all of them at the same time: they do not see one another, and nothing happens.
func measureIdle(ctx context.Context, s settings) (text string, err error) {
	to, err := newChild("sink", false)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, to.end()) }()
	var t taken
	if err := to.ask(looking{}, &t); err != nil {
		return "", err
	}
	tracers := make([]*tracer, len(atRest))
	defer func() {
		for _, t := range tracers {
			err = errors.Join(err, t.stop())
		}
	}()
	for i, v := range atRest {
		if tracers[i], err = v.start(s, t.Address, 0); err != nil {
			return "", err
		}
	}
	progress("idle: %v", s.rest)
	if err := pause(ctx, 3*time.Second); err != nil { // what begins is over
		return "", err
	}
	counted, err := tracers[0].counters(ctx)
	if err != nil {
		return "", err
	}
	before, err := restOf(tracers)
	if err != nil {
		return "", err
	}
	if err := pause(ctx, s.rest); err != nil {
		return "", err
	}
	after, err := restOf(tracers)
	if err != nil {
		return "", err
	}
	countedAfter, err := tracers[0].counters(ctx)
	return idleText(before, after, s.rest, int(countedAfter.closed-counted.closed)), err
}

// rest is what a process has used by now.
type rest struct {
	processor time.Duration
	switches  int
	memory    int
}

func restOf(tracers []*tracer) (all []rest, err error) {
	for _, t := range tracers {
		var r rest
		var errs [3]error
		r.processor, errs[0] = processorTime(t.pid())
		r.switches, errs[1] = switches(t.pid())
		r.memory, _, errs[2] = memory(t.pid())
		if err := errors.Join(errs[:]...); err != nil {
			return nil, err
		}
		all = append(all, r)
	}
	return all, nil
}

// idleText says too how many ends of connections there were meanwhile: who measures is to see that the host
// was at rest.
func idleText(before, after []rest, during time.Duration, ends int) string {
	var b strings.Builder
	rows := table{{"", "wake-ups/s", "% of a core", "RSS, MB"}}
	shareOf := func(i int) float64 {
		return 100 * (after[i].processor - before[i].processor).Seconds() / during.Seconds()
	}
	for i, v := range atRest {
		rows.add(v.name, fmt.Sprintf("%.1f", float64(after[i].switches-before[i].switches)/during.Seconds()),
			fmt.Sprintf("%.3f", shareOf(i)), fmt.Sprintf("%.0f", float64(after[i].memory)/1e6))
	}
	fmt.Fprintf(&b, "%v, in which %d ends of connections were seen.\n\n%s\n%s", during, ends, rows,
		aims([]aim{{"at rest, its defaults: % of a core", spreadOf([]float64{shareOf(0)}), true, 0.1, "%.3f"}}))
	return b.String()
}

// pause is a sleep that ends early with ctx, which is an error then.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
