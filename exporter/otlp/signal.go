package otlp

import (
	"context"
	"errors"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/exporter"
	"go.opentelemetry.io/collector/exporter/exporterhelper"
	"go.opentelemetry.io/collector/exporter/exporterhelper/xexporterhelper"
	"google.golang.org/grpc"
)

// signal is what differs between logs, metrics and traces. T is the pdata of all items of a batch.
type signal[T any] struct {
	path  string // after /v1/
	items string // what is counted, in the plural

	count func(T) int
	size  func(T) int // bytes in protobuf
	empty func() T
	copy  func(from, to T)
	// prune calls drop once for each item, in their order, and removes those for which it says true,
	// and what is empty without them.
	prune func(data T, drop func() bool)

	request func(T) request
	decode  func(stored []byte) (context.Context, T, error) // what a queue wrote to storage
	// undelivered is err that says which items of a batch are to be sent again, and rest what it says.
	undelivered func(err error, data T) error
	rest        func(err error) (T, bool)

	queueing func() xexporterhelper.QueueBatchSettings
	helper   func(context.Context, exporter.Settings, component.Config, consume[T], ...exporterhelper.Option) (helper[T], error)
}

// consume is a method ConsumeLogs or its like.
type consume[T any] = func(ctx context.Context, data T) error

// helper is a chain of senders of exporterhelper.
type helper[T any] struct {
	helperComponent
	consume consume[T]
}

type helperComponent interface {
	component.Component
	Capabilities() consumer.Capabilities
}

// newHelper makes exporterhelper.NewLogs and its like return a helper.
func newHelper[T any, E helperComponent, F ~func(context.Context, T) error](
	create func(context.Context, exporter.Settings, component.Config, F, ...exporterhelper.Option) (E, error),
	consume func(E, context.Context, T) error,
) func(context.Context, exporter.Settings, component.Config, consume[T], ...exporterhelper.Option) (helper[T], error) {
	return func(
		ctx context.Context, set exporter.Settings, cfg component.Config, push func(context.Context, T) error, options ...exporterhelper.Option,
	) (helper[T], error) {
		e, err := create(ctx, set, cfg, push, options...)
		if err != nil {
			return helper[T]{}, err
		}
		return helper[T]{e, func(ctx context.Context, data T) error { return consume(e, ctx, data) }}, nil
	}
}

// rest returns the data of a consumererror.Logs or its like.
func rest[E interface {
	error
	Data() T
}, T any](err error) (T, bool) {
	e, found := errors.AsType[E](err)
	if !found {
		var none T
		return none, false
	}
	return e.Data(), true
}

// request is an ExportRequest.
type request interface {
	MarshalProto() ([]byte, error)
	MarshalJSON() ([]byte, error)
	// call sends it over gRPC.
	call(ctx context.Context, conn *grpc.ClientConn) (response, error)
	// response is where what answers it is decoded to.
	response() response
}

// response is an ExportResponse.
type response interface {
	UnmarshalProto(data []byte) error
	UnmarshalJSON(data []byte) error
	answer() answer
}

// answer is what a server that took a request has to say about it; nothing in it can be trusted.
type answer struct {
	rejected int64 // items
	message  string
}
