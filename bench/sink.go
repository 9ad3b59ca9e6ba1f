package main

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	"google.golang.org/grpc"
	_ "google.golang.org/grpc/encoding/gzip" // what connspan sends by default
	"google.golang.org/grpc/mem"
)

// A sink is an OTLP server over gRPC that takes everything and keeps nothing. What it does not look into
// it does not even decode: it shares the processors with what is measured.
type sink struct {
	mu    sync.Mutex
	port  int // of the connections that are looked at; 0: none
	taken taken
	ways  []time.Duration // from event to arrival, of each record that is looked at
}

// taken is what has come since it was asked last.
type taken struct {
	Address  string
	Requests int
	Octets   int           // of protobuf, not compressed
	Records  int           // log records, of those that are looked at
	Ends     int           // ends of connections, likewise
	P50, P99 time.Duration // from event to arrival, likewise; 0: none
}

// looking is what a sink is asked: for what has come, and to look at the connections to this port from now on.
type looking struct{ Port int }

func runSink() error {
	l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	s := &sink{}
	server := grpc.NewServer(grpc.ForceServerCodecV2(octets{}), grpc.UnknownServiceHandler(s.take), grpc.MaxRecvMsgSize(1<<30))
	go func() { _ = server.Serve(l) }()
	defer server.Stop()
	return serve(func(q looking) (taken, error) {
		t := s.swap(q.Port)
		t.Address = l.Addr().String()
		return t, nil
	})
}

// octets is the codec of messages that are passed as they are.
type octets struct{}

func (octets) Name() string { return "proto" }

func (octets) Marshal(v any) (mem.BufferSlice, error) { return *v.(*mem.BufferSlice), nil }

func (octets) Unmarshal(data mem.BufferSlice, v any) error {
	data.Ref()
	*v.(*mem.BufferSlice) = data
	return nil
}

// take is every method of every service: a request comes, and what goes back is empty, which in OTLP says
// that all is well.
func (s *sink) take(_ any, stream grpc.ServerStream) error {
	var request, response mem.BufferSlice
	if err := stream.RecvMsg(&request); err != nil {
		return err
	}
	arrival := time.Now()
	defer request.Free()
	method, _ := grpc.MethodFromServerStream(stream)
	if err := s.see(strings.Contains(method, "LogsService"), request, arrival); err != nil {
		return err
	}
	return stream.SendMsg(&response)
}

func (s *sink) see(logs bool, request mem.BufferSlice, arrival time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.taken.Requests++
	s.taken.Octets += request.Len()
	if s.port == 0 || !logs {
		return nil
	}
	r := plogotlp.NewExportRequest()
	if err := r.UnmarshalProto(request.Materialize()); err != nil {
		return fmt.Errorf("decoding a request: %w", err)
	}
	for _, resource := range r.Logs().ResourceLogs().All() {
		for _, scope := range resource.ScopeLogs().All() {
			for _, record := range scope.LogRecords().All() {
				s.look(record, arrival)
			}
		}
	}
	return nil
}

func (s *sink) look(record plog.LogRecord, arrival time.Time) {
	if port, ok := record.Attributes().Get("server.port"); !ok || int(port.Int()) != s.port {
		return
	}
	s.ways = append(s.ways, arrival.Sub(record.Timestamp().AsTime()))
	if record.EventName() == "tcp.connection.close" {
		s.taken.Ends++
	}
}

// swap gives what has come, and begins anew.
func (s *sink) swap(port int) taken {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.taken
	if n := len(s.ways); n > 0 {
		t.Records = n
		slices.Sort(s.ways)
		t.P50, t.P99 = s.ways[n/2], s.ways[n*99/100]
	}
	s.port, s.taken, s.ways = port, taken{}, s.ways[:0]
	return t
}
