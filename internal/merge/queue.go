package merge

import "github.com/connspan/connspan/internal/event"

// keepEvents is how large an empty queue may stay; a larger one, left by a stall, is given back.
const keepEvents = 1 << 13

// A queue holds the events of one CPU, oldest first, in buf[at:].
type queue struct {
	buf []event.Event
	at  int
}

// push copies e to its place, from the tail, and reports whether that is the front.
func (q *queue) push(e *event.Event) bool {
	if len(q.buf) == cap(q.buf) && q.at > len(q.buf)/2 {
		q.buf = q.buf[:copy(q.buf, q.buf[q.at:])]
		q.at = 0
	}
	q.buf = append(q.buf, *e)
	i := len(q.buf) - 1
	for k := keyOf(e); i > q.at && k.less(keyOf(&q.buf[i-1])); i-- {
		q.buf[i] = q.buf[i-1]
	}
	if i < len(q.buf)-1 {
		q.buf[i] = *e
	}
	return i == q.at
}

// front is the oldest event; the queue must not be empty. It is valid until the next push or drop.
func (q *queue) front() *event.Event { return &q.buf[q.at] }

// drop takes the front away and reports whether anything is left.
func (q *queue) drop() bool {
	q.at++
	if q.at < len(q.buf) {
		return true
	}
	q.buf, q.at = q.buf[:0], 0
	if cap(q.buf) > keepEvents {
		q.buf = nil
	}
	return false
}
