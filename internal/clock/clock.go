// Package clock turns the kernel's event time into wall time.
//
// Events are stamped with bpf_ktime_get_ns: CLOCK_MONOTONIC of the initial time namespace, which
// stops while the machine sleeps. The process's own CLOCK_MONOTONIC is no substitute: in a time
// namespace it is shifted. So the offset to wall time is measured against the programs' own clock,
// and again every few seconds, for wall time is stepped and slewed.
package clock

import (
	"fmt"
	"math"
	"time"
)

// samples per calibration; the tightest counts. A preempted one is off by milliseconds.
const samples = 8

// A Clock converts. The zero value is not calibrated. It is not safe for concurrent use.
type Clock struct {
	// Kernel gives the time in nanoseconds on the events' clock.
	Kernel func() (uint64, error)
	// Wall gives the wall time.
	Wall func() time.Time

	offset int64         // wall time (Unix, ns) - kernel time
	within time.Duration // how wrong the offset may be
	at     uint64        // kernel time of the calibration
}

// Calibrate measures the offset. On error the old one stays.
func (c *Clock) Calibrate() error {
	best := int64(math.MaxInt64)
	for range samples {
		before := c.Wall().UnixNano()
		kernel, err := c.Kernel()
		if err != nil {
			return fmt.Errorf("calibrating the clock: %w", err)
		}
		after := c.Wall().UnixNano()
		if width := after - before; width >= 0 && width < best {
			best = width
			c.offset = before + width/2 - int64(kernel)
			c.at = kernel
		}
	}
	if best == math.MaxInt64 {
		return fmt.Errorf("calibrating the clock: wall time ran backwards %d times in a row", samples)
	}
	c.within = time.Duration(best/2 + 1)
	return nil
}

// Due reports whether the calibration is older than period at kernel time now.
func (c *Clock) Due(now uint64, period time.Duration) bool {
	return c.at == 0 || now > c.at+uint64(period)
}

// Time gives the wall time of kernel time t by the latest calibration.
func (c *Clock) Time(t uint64) time.Time { return time.Unix(0, int64(t)+c.offset) }

// Within is how far the latest calibration may have been off.
func (c *Clock) Within() time.Duration { return c.within }
