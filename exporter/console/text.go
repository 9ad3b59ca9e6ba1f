package console

import (
	"bytes"
	"cmp"
	"fmt"
	"math"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"

	"github.com/connspan/connspan/internal/event"
)

const (
	// columns fit in 140 characters as long as the connection ended in order and the addresses are
	// IPv4. A value that is too long moves the rest of its line.
	columns = "%-15s %-6s %-20s %-6s %-21s %-21s %8s %7s %8s %7s %s\n"
	// clockTime is to the microsecond, which tells the order of events on one host.
	clockTime = "15:04:05.000000"
	unknown   = "-"
)

// text writes a line per record, with a header above the first.
type text struct {
	location *time.Location
	headed   bool
}

// encode undoes the grouping by process: the lines are in the order of time.
func (t *text) encode(b *bytes.Buffer, ld plog.Logs) error {
	if !t.headed {
		t.headed = true
		fmt.Fprintf(b, columns, "TIME", "EVENT", "PROCESS", "ROLE", "LOCAL", "PEER",
			"DURATION", "SENT", "RECEIVED", "RTT", "END")
	}
	for _, record := range inOrder(ld) {
		t.encodeRecord(b, record)
	}
	return nil
}

func inOrder(ld plog.Logs) []plog.LogRecord {
	records := make([]plog.LogRecord, 0, ld.LogRecordCount())
	for _, rl := range ld.ResourceLogs().All() {
		for _, sl := range rl.ScopeLogs().All() {
			for _, record := range sl.LogRecords().All() {
				records = append(records, record)
			}
		}
	}
	slices.SortStableFunc(records, func(a, b plog.LogRecord) int { return cmp.Compare(a.Timestamp(), b.Timestamp()) })
	return records
}

func (t *text) encodeRecord(b *bytes.Buffer, record plog.LogRecord) {
	a := attributes(record.Attributes())
	fmt.Fprintf(b, columns,
		t.time(record.Timestamp()),
		or(strings.TrimPrefix(record.EventName(), "tcp.connection.")),
		a.process(),
		a.role(),
		a.end("network.local.address", "network.local.port"),
		a.end("network.peer.address", "network.peer.port"),
		a.duration("tcp.connection.duration", "tcp.connection.handshake.duration"),
		a.size("tcp.connection.bytes_sent"),
		a.size("tcp.connection.bytes_received"),
		a.duration("tcp.connection.rtt"),
		a.outcome())
}

func (t *text) time(ts pcommon.Timestamp) string {
	if ts == 0 {
		return unknown
	}
	return ts.AsTime().In(t.location).Format(clockTime)
}

// attributes reads what may be missing or of any type.
type attributes pcommon.Map

func (a attributes) str(key string) string {
	v, ok := pcommon.Map(a).Get(key)
	if !ok || v.Type() != pcommon.ValueTypeStr {
		return ""
	}
	return event.Printable(v.Str())
}

func (a attributes) int(key string) (int64, bool) {
	v, ok := pcommon.Map(a).Get(key)
	if !ok || v.Type() != pcommon.ValueTypeInt {
		return 0, false
	}
	return v.Int(), true
}

func (a attributes) flag(key string) bool {
	v, ok := pcommon.Map(a).Get(key)
	return ok && v.Type() == pcommon.ValueTypeBool && v.Bool()
}

func (a attributes) process() string {
	name := or(a.str("process.executable.name"))
	if pid, ok := a.int("process.pid"); ok {
		return name + "[" + strconv.FormatInt(pid, 10) + "]"
	}
	return name
}

func (a attributes) role() string {
	if role := a.str("network.tcp.handshake.role"); role != "unknown" {
		return or(role)
	}
	return unknown
}

func (a attributes) end(address, port string) string {
	host := a.str(address)
	n, ok := a.int(port)
	if host == "" || !ok {
		return or(host)
	}
	return net.JoinHostPort(host, strconv.FormatInt(n, 10))
}

// duration gives the first of keys that is known.
func (a attributes) duration(keys ...string) string {
	for _, key := range keys {
		v, ok := pcommon.Map(a).Get(key)
		if ok && v.Type() == pcommon.ValueTypeDouble {
			return seconds(v.Double())
		}
	}
	return unknown
}

func (a attributes) size(key string) string {
	n, ok := a.int(key)
	if !ok || n < 0 {
		return unknown
	}
	return octets(n)
}

// outcome tells why and by whom the connection ended, what went wrong, and what to know of the record.
func (a attributes) outcome() string {
	var words []string
	for _, key := range []string{"tcp.connection.close.reason", "tcp.connection.close.initiator", "error.type"} {
		if word := a.str(key); word != "" {
			words = append(words, word)
		}
	}
	for _, flag := range []string{"preexisting", "synthesized", "late"} {
		if a.flag("tcp.connection." + flag) {
			words = append(words, flag)
		}
	}
	return or(strings.Join(words, " "))
}

func or(s string) string {
	if s == "" {
		return unknown
	}
	return s
}

// seconds gives three digits or so: 340µs, 1.23s, 2m5s, 31h4m.
func seconds(s float64) string {
	const most = 100 * 365 * 24 * 3600
	if !(s >= 0 && s < most) { // NaN is neither
		return unknown
	}
	d := time.Duration(math.Round(s * float64(time.Second)))
	switch {
	case d >= time.Hour:
		return strings.TrimSuffix(d.Round(time.Minute).String(), "0s")
	case d >= time.Minute:
		return d.Round(time.Second).String()
	}
	unit := time.Nanosecond
	for ; d >= 1000*unit; unit *= 10 {
	}
	return d.Round(unit).String()
}

// octets gives three digits: 999B, 1.46KiB, 31.2MiB.
func octets(n int64) string {
	if n < 1000 {
		return strconv.FormatInt(n, 10) + "B"
	}
	f, prefix := float64(n), 0
	for f >= 999.5 && prefix < len("KMGTPE") {
		f /= 1024
		prefix++
	}
	digits := 0
	if f < 9.995 {
		digits = 2
	} else if f < 99.95 {
		digits = 1
	}
	return strconv.FormatFloat(f, 'f', digits, 64) + "KMGTPE"[prefix-1:prefix] + "iB"
}
