package exporter

import (
	"strconv"
	"time"

	"github.com/connspan/connspan/internal/conn"
	"github.com/connspan/connspan/internal/event"
)

// line is the record in one line, for stores that keep neither an event's name nor an empty body:
//
//	tcp.connection.close curl[1234] 10.0.0.1:4242 -> 10.1.0.1:5432 1.5s sent=120 received=5300 fin local
//
// The arrow points to the server.
func line(r *conn.Record) string {
	b := make([]byte, 0, 160)
	b = append(b, eventNames[r.Kind]...)
	if r.OwnerSource != event.OwnerUnknown {
		b = append(b, ' ')
		b = append(b, r.Comm.String()...)
		b = append(b, '[')
		b = strconv.AppendUint(b, uint64(r.PID), 10)
		b = append(b, ']')
	}
	b = append(b, ' ')
	b = r.Local.AppendTo(b)
	b = append(b, arrows[r.Role]...)
	b = r.Peer.AppendTo(b)
	return string(appendEnd(b, r))
}

var eventNames = map[event.Kind]string{
	event.Opened: nameOpen, event.Adopted: nameOpen, event.Closed: nameClose, event.Failed: nameFailed,
	event.Sampled: nameHeartbeat,
}

var arrows = map[event.Role]string{event.RoleUnknown: " - ", event.Client: " -> ", event.Server: " <- "}

func appendEnd(b []byte, r *conn.Record) []byte {
	switch r.Kind {
	case event.Opened:
		b = appendDuration(b, r.Handshake)
	case event.Sampled:
		b = appendTotals(appendDuration(b, r.Duration), r)
	case event.Closed:
		b = appendDuration(b, r.Duration)
		if !r.Synthesized {
			b = appendTotals(b, r)
		}
		b = append(b, ' ')
		b = append(b, r.Reason...)
		b = append(b, ' ')
		b = append(b, r.Initiator...)
	case event.Failed:
		b = appendDuration(b, r.Duration)
		b = append(b, ' ')
		b = append(b, r.ErrorType...)
	}
	return b
}

func appendTotals(b []byte, r *conn.Record) []byte {
	b = append(b, " sent="...)
	b = strconv.AppendUint(b, r.BytesSent, 10)
	b = append(b, " received="...)
	return strconv.AppendUint(b, r.BytesReceived, 10)
}

// appendDuration rounds to three digits or so: the exact number is in the attributes.
func appendDuration(b []byte, of func() (time.Duration, bool)) []byte {
	d, ok := of()
	if !ok {
		return b
	}
	unit := time.Nanosecond
	for u := time.Duration(10); u*100 <= d; u *= 10 {
		unit = u
	}
	b = append(b, ' ')
	return append(b, d.Round(unit).String()...)
}
