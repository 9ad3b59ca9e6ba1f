package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
)

// handOffItems bounds the items that wait in memory for a queue in files.
const handOffItems = 20_000

// errHandOffFull is why a hand-off refuses.
var errHandOffFull = errors.New("the disk does not keep up")

// handOff stands between the tracer, which must not wait, and a queue in files, which waits for the
// disk. It passes one batch at a time, in order, and refuses what is newest when it is full.
type handOff[T any] struct {
	count func(T) int
	pass  func(T)

	mu      sync.Mutex
	changed *sync.Cond // there is a batch more, or none comes any more
	batches []T
	waiting int // items of batches, and of the one that is being passed
	closed  bool
	done    chan struct{} // closed when nothing is passed any more; nil before start
}

func newHandOff[T any](count func(T) int, pass func(T)) *handOff[T] {
	h := &handOff[T]{count: count, pass: pass}
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
		for batch, ok := h.next(0); ok; {
			n := h.count(batch) // now: a queue may empty it
			h.pass(batch)
			batch, ok = h.next(n)
		}
	}()
}

// next notes that passed items are done with, and waits for a batch. There is none once the hand-off is
// closed and empty.
func (h *handOff[T]) next(passed int) (batch T, ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.waiting -= passed
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

// close takes nothing more, and waits until all is passed, or ctx ends. It may be called more than once.
func (h *handOff[T]) close(ctx context.Context) error {
	h.mu.Lock()
	h.closed = true
	h.changed.Signal()
	h.mu.Unlock()
	if h.done == nil {
		return nil
	}
	select {
	case <-h.done:
		return nil
	case <-ctx.Done():
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	return fmt.Errorf("handing over to a queue in files: %d items wait for the disk: %w", h.waiting, ctx.Err())
}
