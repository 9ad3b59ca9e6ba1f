package otlp

import (
	"context"
	"maps"
	"math"
	"strconv"
	"sync/atomic"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/extension/xextension/storage"
)

// storageHost is a host whose storage extension has what it hands out of an earlier process counted.
//
// The queue keeps each request under its index, a number that only grows, and goes on counting where
// the last process ended. So what was there before is what lies below the first request of this one.
type storageHost struct {
	component.Host
	id    component.ID
	count func(stored []byte) // hears of each request an earlier process left
}

func (h storageHost) GetExtensions() map[component.ID]component.Component {
	extensions := maps.Clone(h.Host.GetExtensions())
	if extension, ok := extensions[h.id].(storage.Extension); ok {
		extensions[h.id] = countedStorage{extension, h.count}
	}
	return extensions
}

type countedStorage struct {
	storage.Extension
	count func(stored []byte)
}

func (s countedStorage) GetClient(ctx context.Context, kind component.Kind, id component.ID, name string) (storage.Client, error) {
	client, err := s.Extension.GetClient(ctx, kind, id, name)
	if err != nil {
		return nil, err
	}
	counted := &countedClient{Client: client, count: s.count}
	counted.first.Store(math.MaxUint64)
	return counted, nil
}

type countedClient struct {
	storage.Client
	count func(stored []byte)
	first atomic.Uint64 // index of this process's first request
}

// origin marks the context in which storage is used with why that is.
type origin struct{}

const (
	starting  = "starting"  // the queue moves what was being sent when the process died behind the rest
	consuming = "consuming" // the queue puts in what this process gives it
)

// Batch is the one method that the queue uses for requests.
func (c *countedClient) Batch(ctx context.Context, operations ...*storage.Operation) error {
	err := c.Client.Batch(ctx, operations...)
	if err != nil {
		return err
	}
	why := ctx.Value(origin{})
	for _, o := range operations {
		index, err := strconv.ParseUint(o.Key, 10, 64)
		switch {
		case err != nil: // not a request
		case o.Type == storage.Set && why == consuming:
			c.first.CompareAndSwap(math.MaxUint64, index)
		case o.Type == storage.Get && why != starting && index < c.first.Load():
			c.count(o.Value)
		}
	}
	return nil
}
