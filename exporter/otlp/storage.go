package otlp

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"sync"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/extension/xextension/storage"
)

const (
	// maxJoined bounds the requests that are sent as one, in bytes of protobuf.
	maxJoined = maxRequestSize / 2
	// largeRequest is what needs no other with it.
	largeRequest = maxJoined / 2
)

// errJoined is why a queue skips a request: it was sent with one before it.
var errJoined = errors.New("sent with a request before it")

// storedRequests is what an exporter needs of the requests that its queue has in storage.
type storedRequests struct {
	recovered func(stored []byte) // hears of each that an earlier process left
	joining   bool                // whether they may be joined
	shortcut  *shortcut
}

// storageHost is a host whose storage extension has what it hands out of an earlier process counted,
// and small requests that wait one after the other handed out as one.
//
// The queue keeps each request under its index, a number that only grows, and goes on counting where
// the last process ended. So what was there before is what lies below the first request of this one.
type storageHost struct {
	component.Host
	id       component.ID
	requests storedRequests
}

func (h storageHost) GetExtensions() map[component.ID]component.Component {
	extensions := maps.Clone(h.Host.GetExtensions())
	if extension, ok := extensions[h.id].(storage.Extension); ok {
		extensions[h.id] = requestStorage{extension, h.requests}
	}
	return extensions
}

type requestStorage struct {
	storage.Extension
	requests storedRequests
}

func (s requestStorage) GetClient(ctx context.Context, kind component.Kind, id component.ID, name string) (storage.Client, error) {
	client, err := s.Extension.GetClient(ctx, kind, id, name)
	if err != nil {
		return nil, err
	}
	c := &requestClient{Client: client, storedRequests: s.requests, first: math.MaxUint64}
	if err := c.restore(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("reading what was sent together: %w", err), client.Close(ctx))
	}
	return c, nil
}

// requestClient is the storage of one queue.
//
// What waits behind an outage are requests as small as they came, and each costs a round trip: over a
// long way they would not become fewer. So with a request the client hands out those behind it, as far
// as maxJoined goes. Those the queue skips when it comes to them, but only once it has deleted the one
// that they went with: until then they may have to be sent by themselves. Which they are is stored with
// that deletion, for the process may end before the queue has come to them.
type requestClient struct {
	storage.Client
	storedRequests

	mu    sync.Mutex
	first uint64 // index of this process's first request
	head  uint64 // index of the request that the ones up to last were handed out with
	last  uint64
	done  bool // head was deleted
}

// joinedKey has the indexes of a request that was sent and deleted, and of the last that went with it.
const joinedKey = "joined"

// restore takes up what the last process had sent and not yet skipped. The key is made here, while nothing
// is refused for want of room.
func (c *requestClient) restore(ctx context.Context) error {
	b, err := c.Get(ctx, joinedKey)
	if err != nil {
		return err
	}
	if len(b) == 16 {
		c.head, c.last, c.done = binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:]), true
		return nil
	}
	return c.Set(ctx, joinedKey, make([]byte, 16))
}

// withJoined adds to a batch that deletes the head what went with it.
func (c *requestClient) withJoined(operations []*storage.Operation) []*storage.Operation {
	if c.last == c.head {
		return operations
	}
	for _, o := range operations {
		if index, isRequest := indexOf(o); isRequest && o.Type == storage.Delete && index == c.head {
			b := binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, c.head), c.last)
			return append(slices.Clip(operations), storage.SetOperation(joinedKey, b))
		}
	}
	return operations
}

// origin marks the context in which storage is used with why that is.
type origin struct{}

const (
	starting  = "starting"  // the queue moves what was being sent when the process died behind the rest
	consuming = "consuming" // the queue puts in what this process gives it
)

// Batch is the one method that the queue uses for requests.
func (c *requestClient) Batch(ctx context.Context, operations ...*storage.Operation) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	why := ctx.Value(origin{})
	for i, o := range operations {
		index, isRequest := indexOf(o)
		switch {
		case !isRequest || o.Type != storage.Get:
		case c.done && c.head < index && index <= c.last:
			return errJoined
		case c.shortcut.take(index):
			c.head, c.last, c.done = index, index, false
			operations = slices.Delete(slices.Clone(operations), i, i+1)
		}
	}
	if err := c.Client.Batch(ctx, c.withJoined(operations)...); err != nil {
		c.shortcut.encoded = keptRequest{}
		return err
	}
	for _, o := range operations {
		index, isRequest := indexOf(o)
		switch {
		case !isRequest:
		case o.Type == storage.Set && why == consuming:
			c.first = min(c.first, index)
			c.shortcut.put(index)
		case o.Type == storage.Delete:
			c.done = c.done || index == c.head
		case o.Type == storage.Get && why != starting:
			c.join(ctx, index, o)
			if index < c.first {
				c.recovered(o.Value)
			}
		}
	}
	return nil
}

func indexOf(o *storage.Operation) (index uint64, isRequest bool) {
	index, err := strconv.ParseUint(o.Key, 10, 64)
	return index, err == nil
}

// join appends to the request what waits behind it: encoded as protobuf, one behind the other is both in
// one. Those of an earlier process are not joined with this one's.
func (c *requestClient) join(ctx context.Context, index uint64, o *storage.Operation) {
	c.head, c.last, c.done = index, index, false
	if !c.joining {
		return
	}
	joined := slices.Clip(o.Value)
	for next := index + 1; len(joined) < largeRequest && (next < c.first) == (index < c.first); next++ {
		value, err := c.Get(ctx, strconv.FormatUint(next, 10))
		if err != nil || value == nil || len(joined)+len(value) > maxJoined {
			break
		}
		joined, c.last = append(joined, value...), next
	}
	if c.last == index {
		return
	}
	if !c.shortcut.decode(joined) { // one of them is not
		c.last = index
		return
	}
	o.Value = joined
}
