package main

import (
	"math"
	"time"
)

// readTSC reads the processor's time stamp counter.
func readTSC() uint64

// tscRate measures the frequency of this machine's time stamp counter, in kHz. It is that of the guests' too:
// they would measure it at boot, and on a busy host come to a clock that runs many times too fast.
func tscRate() uint64 {
	began, ticks := readBoth()
	time.Sleep(200 * time.Millisecond)
	ended, last := readBoth()
	return (last - ticks) * uint64(time.Millisecond) / uint64(ended.Sub(began))
}

// readBoth reads clock and counter at the same time: of some tries the one that was interrupted least.
func readBoth() (now time.Time, ticks uint64) {
	least := uint64(math.MaxUint64)
	for range 100 {
		before := readTSC()
		t := time.Now()
		if width := readTSC() - before; width < least {
			least, now, ticks = width, t, before+width/2
		}
	}
	return now, ticks
}
