package main

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// measureLatency has connections come at several rates, and the sink compare each record's time with that
// of its arrival: both are the wall clock of this machine.
func measureLatency(ctx context.Context, s settings) (text string, err error) {
	l, err := newLane(s)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, l.close()) }()
	rows := table{{"connections/s", "p50, ms", "p99, ms", "records that arrived, %", "octets/request"}}
	for _, rate := range []int{100, s.rate, 0} {
		u, t, err := l.ways(ctx, rate)
		if err != nil {
			return "", err
		}
		name := fmt.Sprintf("%.0f", u.rate())
		if rate == 0 {
			name += ", flat out"
		}
		rows.add(name, millis(t.P50), millis(t.P99), fmt.Sprintf("%.2f", 100*float64(t.Records)/float64(4*u.Count)), fmt.Sprint(t.Octets/max(t.Requests, 1)))
	}
	return "From the event in the kernel to its record's arrival at an OTLP server on this machine, connspan with opened and closed logs.\n\n" +
		rows.String(), nil
}

func millis(d time.Duration) string { return fmt.Sprintf("%.1f", float64(d.Microseconds())/1e3) }

// ways gives what the sink has seen of the connections at a rate.
func (l *lane) ways(ctx context.Context, rate int) (u usage, t taken, err error) {
	progress("latency: %d connections a second (0: flat out)", rate)
	tracer, err := named(logs).start(l.settings, l.address, 0)
	if err != nil {
		return u, t, err
	}
	defer func() { err = errors.Join(err, tracer.stop()) }()
	if _, err := l.under(ctx, tracer, l.fresh(rate, time.Second)); err != nil {
		return u, t, err
	}
	if _, err := l.swap(l.port()); err != nil {
		return u, t, err
	}
	if u, err = l.under(ctx, tracer, l.fresh(rate, 4*l.window)); err != nil {
		return u, t, err
	}
	if err := tracer.stop(); err != nil { // it sends the last of it now
		return u, t, err
	}
	t, err = l.swap(0)
	return u, t, err
}
