package watch

import "time"

// window is what rates are averaged over.
const window = 3 * time.Second

// rates are per second, over window.
type rates struct {
	opened, closed, failed float64
	seen                   []reading // not older than window, but for the first
}

// reading is what the counters were at one time.
type reading struct {
	at time.Time
	counters
}

// add takes the counters as of now.
func (r *rates) add(now time.Time, c counters) {
	r.seen = append(r.seen, reading{now, c})
	for len(r.seen) > 2 && now.Sub(r.seen[1].at) >= window {
		r.seen = r.seen[1:]
	}
	first := r.seen[0]
	since := now.Sub(first.at).Seconds()
	if since <= 0 {
		return
	}
	r.opened = float64(c.opened-first.opened) / since
	r.closed = float64(c.closed-first.closed) / since
	r.failed = float64(c.failed-first.failed) / since
}
