package conn

import (
	"fmt"
	"net/netip"
	"runtime"
	"testing"

	"github.com/connspan/connspan/internal/event"
)

// BenchmarkOpen enters open connections into an empty table, and reports the time and the memory that
// each of them takes there.
func BenchmarkOpen(b *testing.B) {
	for _, n := range []int{100_000, 1_000_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			grown := uint64(0)
			for b.Loop() {
				b.StopTimer()
				before := heap()
				b.StartTimer()
				table := filled(n)
				b.StopTimer()
				grown += heap() - before
				runtime.KeepAlive(table)
				b.StartTimer()
			}
			all := float64(b.N) * float64(n)
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/all, "ns/conn")
			b.ReportMetric(float64(grown)/all, "B/conn")
		})
	}
}

// filled makes a table of n open connections.
func filled(n int) *Table {
	table := NewTable()
	e := event.Event{
		Kind: event.Opened, Ordinal: 1, Role: event.Client, PID: 1234, OwnerSource: event.OwnerConnect,
		Local: netip.MustParseAddrPort("10.0.0.1:4242"), Peer: netip.MustParseAddrPort("10.1.0.1:5432"),
	}
	for cookie := range uint64(n) {
		e.Cookie, e.Time = cookie+1, cookie
		table.Apply(&e, func(*Record) {})
	}
	return table
}

// heap is what is in use once all garbage is gone.
func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
