package exporter

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"

	"github.com/google/uuid"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/resource"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"

	"github.com/connspan/connspan/internal/event"
)

// newResource gives the attributes that every traced process on this host shares. Of the
// environment's own attributes those that name a service are left out: they are this program's,
// not the traced one's.
func newResource(cfg ResourceConfig, logger *slog.Logger) (pcommon.Map, error) {
	found, err := resource.New(context.Background(), resource.WithHost(), resource.WithFromEnv())
	if errors.Is(err, resource.ErrPartialResource) {
		logger.Warn("a part of the Resource is left out; OTEL_RESOURCE_ATTRIBUTES must be key=value,key=value", "error", err)
	} else if err != nil {
		return pcommon.Map{}, fmt.Errorf("finding out about this host: %w", err)
	}
	m := pcommon.NewMap()
	for _, kv := range found.Attributes() {
		switch kv.Key {
		case semconv.ServiceNameKey, semconv.ServiceNamespaceKey, semconv.ServiceInstanceIDKey, semconv.ServiceVersionKey:
			continue
		}
		putAttribute(m, kv)
	}
	for _, name := range slices.Sorted(maps.Keys(cfg.Attributes)) {
		m.PutStr(event.Printable(name), event.Printable(cfg.Attributes[name]))
	}
	return m, nil
}

func putAttribute(m pcommon.Map, kv attribute.KeyValue) {
	m.PutStr(event.Printable(string(kv.Key)), event.Printable(kv.Value.String()))
}

// owner tells processes apart, also when an id is used again.
type owner struct {
	pid     uint32
	uid     uint32
	started uint64
	comm    event.Comm
}

func ownerOf(e *event.Event) owner { return owner{e.PID, e.UID, e.OwnerStarted, e.Comm} }

// instance names the process among all on all hosts, so that two of one service are two.
func (o owner) instance(base pcommon.Map) string {
	var host string
	if id, ok := base.Get(string(semconv.HostIDKey)); ok {
		host = id.AsString()
	} else if name, ok := base.Get(string(semconv.HostNameKey)); ok {
		host = name.AsString()
	}
	b := append([]byte(host), 0)
	b = binary.BigEndian.AppendUint32(b, o.pid)
	b = binary.BigEndian.AppendUint64(b, o.started)
	return uuid.NewSHA1(instances, b).String()
}

// instances is the namespace of the service.instance.id that semantic conventions set.
var instances = uuid.MustParse("4d63009a-8d0f-11ee-aad7-4c796ed8e320")

// fillResource describes the process that owns a connection. What cfg sets stays.
func (o owner) fillResource(m, base pcommon.Map) {
	base.CopyTo(m)
	if o == (owner{}) {
		return
	}
	name := o.comm.String()
	if _, set := m.Get(string(semconv.ServiceNameKey)); !set {
		m.PutStr(string(semconv.ServiceNameKey), name)
	}
	m.PutStr(string(semconv.ServiceInstanceIDKey), o.instance(base))
	m.PutInt(string(semconv.ProcessPIDKey), int64(o.pid))
	m.PutStr(string(semconv.ProcessExecutableNameKey), name)
}
