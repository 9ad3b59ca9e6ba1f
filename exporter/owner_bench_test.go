package exporter

import (
	"os"
	"testing"

	"go.opentelemetry.io/collector/pdata/pcommon"

	"github.com/connspan/connspan/internal/event"
	"github.com/connspan/connspan/internal/owner"
)

// BenchmarkOwner is what it costs to tell whose a connection is: of a process that is told of for the first time,
// of each later event of its connections, and of its Resource, which each batch has once.
func BenchmarkOwner(b *testing.B) {
	processes, err := owner.New(owner.Config{Environment: true})
	if err != nil {
		b.Skip(err)
	}
	rs := describe(ResourceConfig{}, hostOnly(), processes.Find)
	rs.known = processes
	self, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	web := event.Process{
		PID: 1 << 30, Started: 1, Parent: 1, Comm: event.Comm{'w', 'e', 'b'}, Executable: self,
		Unified: "/kubepods.slice/kubepods-burstable.slice/" + handmadeIn + "cri-containerd-" + handmadeID + ".scope", Legacy: "/",
	}
	b.Run("new process", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			web.Started++
			rs.introduce(&web)
		}
	})
	e := event.Event{PID: web.PID, OwnerStarted: web.Started, Comm: web.Comm}
	b.Run("known owner", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			rs.find(ownerOf(&e))
		}
	})
	b.Run("resource", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			rs.fill(pcommon.NewMap(), ownerOf(&e), rs.find(ownerOf(&e)))
		}
	})
}
