package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
)

// handOffItems bounds the items that wait in memory for a queue in files. It is seldom more than a batch; when the
// disk stands still, or others have the CPUs, that many are about 40 MB.
const handOffItems = 20_000

// Why a hand-off refuses.
var (
	errHandOffFull = errors.New("the disk does not keep up")
	errNotStored   = errors.New("the disk has not taken it in time")
)

// handOff stands between the tracer, which must not wait, and a queue in files, which waits for the
// disk. It passes one batch at a time, in order, and refuses what is newest when it is full.
type handOff[T any] struct {
	count   func(T) int
	pass    func(T) error
	refused func(n int, err error) // hears of what was not passed

	mu      sync.Mutex
	changed *sync.Cond // there is a batch more, or none comes any more
	batches []T
	waiting int // items of batches, and of the one that is being passed
	closed  bool
	left    bool          // closed, with what was waiting then
	done    chan struct{} // closed when nothing is passed any more; nil before start
}

func newHandOff[T any](count func(T) int, pass func(T) error, refused func(n int, err error)) *handOff[T] {
	h := &handOff[T]{count: count, pass: pass, refused: refused}
	h.changed = sync.NewCond(&h.mu)
	return h
}

// offer takes batch, which belongs to the hand-off from then on. It does not block.
func (h *handOff[T]) offer(batch T) error {
	n := h.count(batch)
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.closed:
		return fmt.Errorf("handing %d items over: %w", n, os.ErrClosed)
	case h.waiting > 0 && h.waiting+n > handOffItems:
		return fmt.Errorf("handing %d items over behind %d, at most %d: %w", n, h.waiting, handOffItems, errHandOffFull)
	}
	h.waiting += n
	h.batches = append(h.batches, batch)
	h.changed.Signal()
	return nil
}

// start begins to pass what is offered.
func (h *handOff[T]) start() {
	h.done = make(chan struct{})
	go func() {
		defer close(h.done)
		for batch, ok := h.next(); ok; batch, ok = h.next() {
			n := h.count(batch) // now: a queue may empty it
			if err := h.pass(batch); h.passed(n) && err != nil {
				h.refused(n, err)
			}
		}
	}()
}

// next waits for a batch. There is none once the hand-off is closed and empty.
func (h *handOff[T]) next() (batch T, ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for len(h.batches) == 0 {
		if h.closed {
			return batch, false
		}
		h.changed.Wait()
	}
	batch, h.batches[0] = h.batches[0], batch // what has been passed is not to be kept in memory
	h.batches = h.batches[1:]
	return batch, true
}

// passed notes that n items are done with, and tells whether anybody still asks what became of them.
func (h *handOff[T]) passed(n int) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.waiting -= n
	return !h.left
}

// close takes nothing more, and waits until all is passed. What still waits for the disk when ctx ends
// it gives up, with what is just being passed, whatever becomes of that, and tells how many items that
// were. It may be called more than once.
func (h *handOff[T]) close(ctx context.Context) (lost int, err error) {
	h.mu.Lock()
	h.closed = true
	h.changed.Signal()
	h.mu.Unlock()
	if h.done == nil {
		return 0, nil
	}
	select {
	case <-h.done:
		return 0, nil
	case <-ctx.Done():
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.left || h.waiting == 0 {
		return 0, nil
	}
	h.left, h.batches = true, nil
	return h.waiting, fmt.Errorf("handing over to a queue in files: %d items lost: %w", h.waiting, errNotStored)
}
