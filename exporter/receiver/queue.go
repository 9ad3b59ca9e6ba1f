package receiver

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.opentelemetry.io/collector/consumer/consumererror"
	"go.opentelemetry.io/collector/pipeline"
)

// The time between two attempts to pass a batch, at first and at most.
const (
	firstWait   = 50 * time.Millisecond
	longestWait = 5 * time.Second
)

// errQueueFull is why a queue refuses.
var errQueueFull = errors.New("the queue is full")

// queue stands between the tracer, which must not wait, and a pipeline, which may. It passes one batch
// at a time, in order, and refuses what is newest when it is full.
type queue[T any] struct {
	limit int                            // of records
	count func(T) int                    // records in a batch
	pass  func(context.Context, T) error // into the pipeline

	mu      sync.Mutex
	batches []T
	state   state

	more    chan struct{}   // has an element when there may be another batch
	closing chan struct{}   // closed when no batch comes any more
	done    chan struct{}   // closed when run has ended
	ctx     context.Context // of the calls into the pipeline
	abandon context.CancelFunc
}

// state is what has become of the records (log records, data points or spans) that a queue took.
type state struct {
	signal  pipeline.Signal
	waiting int   // in the queue, or on their way into the pipeline
	dropped int64 // not taken by the pipeline, for good
	err     error // of the latest call into the pipeline
}

func newQueue[T any](signal pipeline.Signal, limit int, count func(T) int, pass func(context.Context, T) error) *queue[T] {
	q := &queue[T]{
		limit: limit, count: count, pass: pass, state: state{signal: signal},
		more: make(chan struct{}, 1), closing: make(chan struct{}), done: make(chan struct{}),
	}
	q.ctx, q.abandon = context.WithCancel(context.Background())
	return q
}

// offer queues batch, which belongs to the queue from then on. It does not block, and needs no context.
func (q *queue[T]) offer(_ context.Context, batch T) error {
	n := q.count(batch)
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.state.waiting > 0 && q.state.waiting+n > q.limit {
		return fmt.Errorf("queueing %d %s behind %d, at most %d: %w", n, q.state.signal, q.state.waiting, q.limit, errQueueFull)
	}
	q.state.waiting += n
	q.batches = append(q.batches, batch)
	select {
	case q.more <- struct{}{}:
	default:
	}
	return nil
}

// run passes batches until the queue is closed, and then those that it still has.
func (q *queue[T]) run() {
	defer close(q.done)
	for {
		batch, ok := q.next()
		if !ok {
			return
		}
		q.deliver(batch)
	}
}

// next waits for a batch, or for the queue to be closed.
func (q *queue[T]) next() (batch T, ok bool) {
	for {
		if batch, ok = q.take(); ok {
			return batch, true
		}
		select {
		case <-q.more:
		case <-q.closing:
			return q.take()
		}
	}
}

func (q *queue[T]) take() (batch T, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.batches) == 0 {
		return batch, false
	}
	batch, q.batches = q.batches[0], q.batches[1:]
	return batch, true
}

// deliver passes batch, again and again where the pipeline refuses it for a time; once only when the
// queue is closed.
func (q *queue[T]) deliver(batch T) {
	n := q.count(batch) // now: the pipeline may empty it
	for wait := firstWait; ; wait = min(2*wait, longestWait) {
		last := q.closed()
		err := q.pass(q.ctx, batch)
		if err == nil || last || consumererror.IsPermanent(err) {
			q.settle(n, err)
			return
		}
		q.settle(0, err)
		select {
		case <-time.After(wait):
		case <-q.closing:
		}
	}
}

// settle notes how a call into the pipeline ended, after which n records are done with.
func (q *queue[T]) settle(n int, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.state.waiting -= n
	q.state.err = err
	if err != nil {
		q.state.dropped += int64(n)
	}
}

func (q *queue[T]) closed() bool {
	select {
	case <-q.closing:
		return true
	default:
		return false
	}
}

func (q *queue[T]) look() state {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.state
}

// close passes what is in the queue, each batch once more, until ctx ends; then it does not wait for the
// pipeline any longer. Nothing may be offered after it, and run must run. The error says what was lost.
func (q *queue[T]) close(ctx context.Context) error {
	defer q.abandon()
	before := q.look().dropped
	close(q.closing)
	select {
	case <-q.done:
	case <-ctx.Done():
	}
	s := q.look()
	if lost := s.dropped - before + int64(s.waiting); lost > 0 {
		return fmt.Errorf("passing on %s: %d records lost that the pipeline did not take: %w", s.signal, lost, errors.Join(s.err, ctx.Err()))
	}
	return nil
}
