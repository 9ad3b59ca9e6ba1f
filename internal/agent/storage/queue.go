package storage

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	xstorage "go.opentelemetry.io/collector/extension/xextension/storage"
	"go.uber.org/zap"
)

const suffix = ".queue"

// errMissing is a value that should be there.
var errMissing = errors.New("not in the queue's files")

// buffers are for records on their way to and from a file. The queues share them: a batch may be a
// megabyte before it is packed, and the garbage collector takes what has not been used for a while.
var buffers = sync.Pool{New: func() any { return new([]byte) }}

// queue is the log of one queue, and the index to it.
type queue struct {
	storage   *Storage
	directory string

	mu       sync.Mutex
	segments []*segment // the last is written to
	index    index
	next     uint32 // number of the next segment
	// doomed are keys of deletes that came alone. So come those of a queue that takes up what its last
	// run was sending: it deletes that first, and then puts it in again. They wait for the batch that
	// takes something out, and a kill before it makes a duplicate, not a loss.
	doomed []*xstorage.Operation
	// gone are keys that the queue will ask for in vain: their values were refused, or are missing and
	// counted already.
	gone   map[string]struct{}
	closed bool
}

var _ xstorage.Client = (*queue)(nil)

func openQueue(s *Storage, directory string) (*queue, error) {
	q := &queue{storage: s, directory: directory, index: newIndex(), gone: make(map[string]struct{})}
	entries, err := os.ReadDir(directory) // sorted, and so are the numbers, which have all their digits
	if err != nil {
		return nil, fmt.Errorf("opening a queue: %w", err)
	}
	for _, entry := range entries {
		number, isSegment := segmentNumber(entry.Name())
		if !isSegment {
			continue
		}
		q.next = number + 1
		q.recover(number, filepath.Join(directory, entry.Name()))
	}
	q.reclaim()
	return q, nil
}

func segmentName(number uint32) string { return fmt.Sprintf("%08x%s", number, suffix) }

func segmentNumber(name string) (number uint32, ok bool) {
	_, err := fmt.Sscanf(name, "%08x"+suffix, &number)
	return number, err == nil && name == segmentName(number)
}

// recover takes up a segment, and puts aside what of it cannot be read.
func (q *queue) recover(number uint32, path string) {
	seg, err := openSegment(number, path)
	if err != nil {
		q.storage.moveAside(path, err.Error())
		return
	}
	q.segments = append(q.segments, seg)
	good, err := seg.replay(q.apply)
	switch {
	case good > 0 && err != nil:
		q.cut(seg, good, err)
	case good > 0:
	case seg.size == 0: // the process ended before it had written anything
		q.segments = q.segments[:len(q.segments)-1]
		q.complain("removing an empty file", errors.Join(seg.file.Close(), os.Remove(path)))
		return
	default:
		q.segments = q.segments[:len(q.segments)-1]
		_ = seg.file.Close()
		q.storage.moveAside(path, err.Error())
		return
	}
	q.storage.used.Add(seg.size)
}

// cut takes the end off a segment, from where it cannot be read.
func (q *queue) cut(seg *segment, at int64, reason error) {
	aside := asideOf(seg.file.Name())
	if err := seg.saveTail(at, aside); err != nil {
		aside = err.Error()
	}
	q.storage.logger.Warn("damaged end of a queue file put aside", zap.String("file", seg.file.Name()),
		zap.Int64("octets", seg.size-at), zap.String("reason", reason.Error()), zap.String("moved_to", aside))
	q.complain("cutting off a damaged file", seg.file.Truncate(at))
	seg.size = at
}

// apply brings the index up to date with an operation that is in the log.
func (q *queue) apply(p place, op *xstorage.Operation) {
	delete(q.gone, op.Key)
	if old, ok := q.index.get(op.Key); ok {
		q.segment(old).live -= old.cost()
		q.index.remove(op.Key)
	}
	if op.Type == xstorage.Set {
		q.index.put(op.Key, p)
		q.segment(p).live += p.cost()
	}
}

// segment gives the segment of a place. There are a hundred or two.
func (q *queue) segment(p place) *segment {
	i, _ := slices.BinarySearchFunc(q.segments, p.segment, func(s *segment, number uint32) int { return cmp.Compare(s.number, number) })
	return q.segments[i]
}

// Get returns the value of key, nil when it has none.
func (q *queue) Get(ctx context.Context, key string) ([]byte, error) {
	op := xstorage.GetOperation(key)
	err := q.Batch(ctx, op)
	return op.Value, err
}

// Set gives key a value.
func (q *queue) Set(ctx context.Context, key string, value []byte) error {
	return q.Batch(ctx, xstorage.SetOperation(key, value))
}

// Delete takes its value from key.
func (q *queue) Delete(ctx context.Context, key string) error {
	return q.Batch(ctx, xstorage.DeleteOperation(key))
}

// Batch does all operations or none. What sets a new key needs room, and fails with
// [xstorage.ErrStorageFull] without. All else goes on even when the disk takes nothing, since this is
// how the queue becomes shorter.
func (q *queue) Batch(_ context.Context, ops ...*xstorage.Operation) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return fmt.Errorf("using a queue: %w", os.ErrClosed)
	}
	var writes []*xstorage.Operation
	var sets, takes, grows bool
	for _, op := range ops {
		switch op.Type {
		case xstorage.Get:
			takes = true
		case xstorage.Set:
			_, known := q.index.get(op.Key)
			sets, grows = true, grows || !known
			writes = append(writes, op)
		case xstorage.Delete:
			takes = true
			writes = append(writes, op)
		}
	}
	switch {
	case len(writes) == 0:
	case !sets:
		q.doomed = append(q.doomed, writes...)
	default:
		if takes {
			writes, q.doomed = append(q.doomed, writes...), nil
		}
		if err := q.write(writes, grows); err != nil {
			q.refuse(writes)
			return err
		}
	}
	return q.read(ops, sets)
}

// write logs operations. When the disk takes none of it, those that make the queue shorter are done
// in memory: the log then holds more than the queue, which is sent twice after a restart.
func (q *queue) write(ops []*xstorage.Operation, grows bool) error {
	if size := valueSize(ops); size > maxValues {
		return fmt.Errorf("writing to a queue: a batch of %d octets, want at most %d", size, maxValues)
	}
	buffer := buffers.Get().(*[]byte)
	defer buffers.Put(buffer)
	*buffer = encode(*buffer, ops)
	if grows && q.storage.used.Load()+int64(len(*buffer)) > q.storage.maxSize {
		return xstorage.ErrStorageFull
	}
	err := q.append(*buffer)
	if err == nil {
		q.reclaim()
		return nil
	}
	q.storage.noRoom.Store(time.Now().UnixNano())
	if grows {
		return fmt.Errorf("writing to a queue: %w", err)
	}
	q.complain("writing to a queue", err)
	for _, op := range ops {
		if op.Type == xstorage.Delete {
			q.apply(place{}, op)
		}
	}
	q.reclaim()
	return nil
}

// refuse notes what was not written. The queue has given it a number all the same.
func (q *queue) refuse(ops []*xstorage.Operation) {
	for _, op := range ops {
		if _, known := q.index.get(op.Key); !known && op.Type == xstorage.Set {
			q.gone[op.Key] = struct{}{}
		}
	}
}

// append appends a record to the log.
func (q *queue) append(record []byte) error {
	if n := len(q.segments); n == 0 || q.segments[n-1].size >= q.storage.segment() {
		seg, err := createSegment(q.next, filepath.Join(q.directory, segmentName(q.next)))
		if err != nil {
			return err
		}
		q.next++
		q.segments = append(q.segments, seg)
		q.storage.used.Add(seg.size)
	}
	seg := q.segments[len(q.segments)-1]
	before := seg.size
	if err := seg.append(record); err != nil {
		return err
	}
	q.storage.used.Add(seg.size - before)
	return decode(record[headerSize:], func(op *xstorage.Operation, offset int) {
		q.apply(seg.place(before+headerSize+int64(offset), op), op)
	})
}

// read fills in the values. One that a taking batch asks for and does not get is an error, or the queue
// would take it for an empty one.
func (q *queue) read(ops []*xstorage.Operation, taking bool) error {
	for _, op := range ops {
		if op.Type != xstorage.Get {
			continue
		}
		op.Value = nil
		p, known := q.index.get(op.Key)
		if known {
			op.Value, _ = q.segment(p).read(p)
		}
		if op.Value == nil && (known || taking) {
			q.miss(op.Key)
			return fmt.Errorf("reading %s: %w", op.Key, errMissing)
		}
	}
	return nil
}

// miss counts a value that cannot be read, once.
func (q *queue) miss(key string) {
	if _, told := q.gone[key]; told {
		return
	}
	q.gone[key] = struct{}{}
	q.storage.missing.Add(1)
	q.storage.logger.Warn("a batch of the queue cannot be read and is given up", zap.String("queue", filepath.Base(q.directory)), zap.String("key", key))
}

// reclaim removes segments without a value from the front; those behind may hold deletes of values
// before them. A front segment that is kept by a few values is rewritten when room is short.
func (q *queue) reclaim() {
	for len(q.segments) > 1 {
		first := q.segments[0]
		if first.live > 0 {
			if !q.storage.Full() || first.live > first.size/4 || q.rewrite(first) != nil {
				return
			}
		}
		q.segments = q.segments[1:]
		q.storage.used.Add(-first.size)
		q.complain("removing a file", errors.Join(first.file.Close(), os.Remove(first.file.Name())))
	}
}

// rewrite appends the values of a segment to the log again.
func (q *queue) rewrite(seg *segment) error {
	var ops []*xstorage.Operation
	for key, p := range q.index.all() {
		if p.segment != seg.number {
			continue
		}
		value, err := seg.read(p)
		if err != nil {
			return err
		}
		ops = append(ops, xstorage.SetOperation(key, value))
	}
	return q.append(encode(nil, ops))
}

// Close closes the files. What is in the queue stays there.
func (q *queue) Close(context.Context) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	var errs []error
	for _, seg := range q.segments {
		q.storage.used.Add(-seg.size)
		errs = append(errs, seg.file.Close())
	}
	q.segments = nil
	return errors.Join(errs...)
}

func (q *queue) complain(doing string, err error) {
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		q.storage.logger.Warn(doing, zap.String("queue", filepath.Base(q.directory)), zap.Error(err))
	}
}
