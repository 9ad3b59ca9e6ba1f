package exporter

import (
	"time"

	"golang.org/x/sys/unix"

	"github.com/connspan/connspan/internal/clock"
	"github.com/connspan/connspan/internal/coverage"
	"github.com/connspan/connspan/internal/probe"
)

// newTally counts from the time that the events of tracer bear, which anybody may ask for: this process's
// CLOCK_MONOTONIC, shifted by what a time namespace may have added to it.
func newTally(tracer *probe.Tracer) (*coverage.Tally, error) {
	own := clock.Clock{Kernel: tracer.Now, Wall: func() time.Time { return time.Unix(0, monotonic()) }}
	if err := own.Calibrate(); err != nil {
		return nil, err
	}
	shift := own.Time(0).UnixNano()
	return coverage.NewTally(func() uint64 { return uint64(monotonic() - shift) })
}

func monotonic() int64 {
	var now unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &now) // every kernel has it
	return now.Nano()
}
