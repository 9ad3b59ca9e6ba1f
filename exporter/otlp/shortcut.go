package otlp

import (
	"context"

	"go.opentelemetry.io/collector/exporter/exporterhelper"
	"go.opentelemetry.io/collector/exporter/exporterhelper/xexporterhelper"
)

// shortcut encodes the requests of a queue for storage, and keeps one of them, so that a request that
// does not have to wait is not read and decoded again.
//
// A queue has a lock of its own while it encodes a request and puts it into storage, and while it takes
// one and decodes that. So what Marshal saw last is what put is called for, and what take found is what
// Unmarshal is to return.
type shortcut struct {
	exporterhelper.QueueBatchEncoding[xexporterhelper.Request]
	keep func(xexporterhelper.Request) // says that the request outlives the call that brought it

	encoded, kept, taken keptRequest
	newest               uint64 // index of the last that was put
}

// keptRequest is a request that storage has, too.
type keptRequest struct {
	xexporterhelper.Request // nil: there is none
	ctx                     context.Context
	index                   uint64
	size                    int // bytes in storage
}

func newShortcut(set xexporterhelper.QueueBatchSettings) *shortcut {
	return &shortcut{QueueBatchEncoding: set.Encoding, keep: set.ReferenceCounter.Ref}
}

// Marshal encodes a request.
func (s *shortcut) Marshal(ctx context.Context, request xexporterhelper.Request) ([]byte, error) {
	b, err := s.QueueBatchEncoding.Marshal(ctx, request)
	s.encoded = keptRequest{Request: request, ctx: context.WithoutCancel(ctx), size: len(b)}
	return b, err
}

// put hears that storage has the request that was encoded last.
func (s *shortcut) put(index uint64) {
	if s.kept.Request == nil {
		s.kept, s.kept.index = s.encoded, index
		s.keep(s.kept.Request)
	}
	s.encoded, s.newest = keptRequest{}, index
}

// take tells whether a request need not be read, because Unmarshal has it. A small one is read when there
// are others to join it with.
func (s *shortcut) take(index uint64) bool {
	s.taken = keptRequest{} // of a call that storage refused
	if s.kept.Request == nil || s.kept.index > index {
		return false
	}
	kept := s.kept
	s.kept = keptRequest{}
	if kept.index < index || kept.size < largeRequest && index < s.newest {
		return false
	}
	s.taken = kept
	return true
}

// decode tells whether b can be decoded, and has Unmarshal return what that gives.
func (s *shortcut) decode(b []byte) bool {
	ctx, request, err := s.QueueBatchEncoding.Unmarshal(b)
	if err != nil {
		return false
	}
	s.taken = keptRequest{Request: request, ctx: ctx}
	return true
}

// Unmarshal decodes a request, unless that was done, or it was kept.
func (s *shortcut) Unmarshal(b []byte) (context.Context, xexporterhelper.Request, error) {
	if taken := s.taken; taken.Request != nil {
		s.taken = keptRequest{}
		return taken.ctx, taken.Request, nil
	}
	return s.QueueBatchEncoding.Unmarshal(b)
}
