package exporter

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"math"
	"strings"

	"go.opentelemetry.io/collector/pdata/pcommon"

	"github.com/connspan/connspan/internal/conn"
	"github.com/connspan/connspan/internal/event"
)

// link is a connection's place in a trace.
type link struct {
	trace   pcommon.TraceID
	span    pcommon.SpanID
	parent  pcommon.SpanID // empty: none
	sampled bool
}

// identity derives the ids of spans from what is known of a connection, the same for each of its
// records.
//
// With pairing, both ends know the pair of initial sequence numbers, and nothing that translates
// addresses on the way changes it. So agents that have never heard of each other give the two ends
// the same trace, and the client's span as the parent of the server's. A digest of the pair is as
// random as a trace id has to be for sampling.
type identity struct {
	paired    bool
	threshold uint64 // W3C Trace Context Level 2: what is less random than this is not sampled
	state     string // what the spans say of that (tracestate)
}

// randomBits is how much of a trace id is random, at its end.
const randomBits = 56

func newIdentity(cfg TracesConfig) identity {
	i := identity{
		paired:    cfg.Pairing == PairingBothEnds,
		threshold: uint64(math.Round((1 - cfg.SampleRatio) * (1 << randomBits))),
	}
	if 0 < i.threshold && i.threshold < 1<<randomBits {
		i.state = "ot=th:" + strings.TrimRight(hex.EncodeToString(binary.BigEndian.AppendUint64(nil, i.threshold)[1:]), "0")
	}
	return i
}

// of gives the place of the connection that r is about.
func (i identity) of(r *conn.Record) link {
	var seed [96]byte
	id, known := r.ID()
	b := append(seed[:0], id[:]...)
	if !known {
		b = appendSocket(b, r.Event)
	}
	paired := i.paired && known
	if !paired {
		b = append(b, byte(r.Role), 1)
	}
	h := sha256.Sum256(b)
	l := link{trace: pcommon.TraceID(h[:16]), span: pcommon.SpanID(h[16:24])}
	if paired && r.Role == event.Server {
		l.parent, l.span = l.span, pcommon.SpanID(h[24:32])
	}
	begun := r.Began != 0 || r.Established != 0 // else it has no span
	l.sampled = begun && binary.BigEndian.Uint64(h[8:16])&(1<<randomBits-1) >= i.threshold
	return l
}

// appendSocket is for a connection whose sequence numbers are not known: nobody else could know them.
func appendSocket(b []byte, e *event.Event) []byte {
	b = binary.BigEndian.AppendUint64(b, e.Cookie)
	b = binary.BigEndian.AppendUint64(b, e.Began)
	b = binary.BigEndian.AppendUint32(b, e.NetNS)
	for _, end := range []struct{ addr [16]byte }{{e.Local.Addr().As16()}, {e.Peer.Addr().As16()}} {
		b = append(b, end.addr[:]...)
	}
	b = binary.BigEndian.AppendUint16(b, e.Local.Port())
	return binary.BigEndian.AppendUint16(b, e.Peer.Port())
}
