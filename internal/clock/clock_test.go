package clock

import (
	"errors"
	"testing"
	"time"
)

// fake gives a Clock whose readings take the given widths; the kernel reads 1000 at every time.
func fake(start time.Time, widths ...time.Duration) *Clock {
	now, i, second := start, 0, false
	return &Clock{
		Kernel: func() (uint64, error) { return 1000, nil },
		Wall: func() time.Time {
			if second {
				now = now.Add(widths[i%len(widths)])
				i++
			}
			second = !second
			return now
		},
	}
}

func TestCalibrateTakesTheTightest(t *testing.T) {
	start := time.Unix(1_000_000, 0)
	c := fake(start, 40*time.Millisecond, 20*time.Millisecond, 10*time.Microsecond, time.Millisecond)
	if err := c.Calibrate(); err != nil {
		t.Fatal(err)
	}
	want := start.Add(60*time.Millisecond + 5*time.Microsecond)
	if got := c.Time(1000); !got.Equal(want) {
		t.Errorf("kernel time 1000 is %v, want %v", got, want)
	}
	if got := c.Time(1000 + 5e9); !got.Equal(want.Add(5 * time.Second)) {
		t.Errorf("5 s later it is %v", got)
	}
	if c.Within() != 5*time.Microsecond+1 {
		t.Errorf("within %v, want half of the tightest reading", c.Within())
	}
}

func TestCalibrateFollowsAStep(t *testing.T) {
	c := fake(time.Unix(1_000_000, 0), time.Microsecond)
	if err := c.Calibrate(); err != nil {
		t.Fatal(err)
	}
	before := c.Time(1000)
	c.Wall = fake(time.Unix(1_003_600, 0), time.Microsecond).Wall
	if err := c.Calibrate(); err != nil {
		t.Fatal(err)
	}
	if d := c.Time(1000).Sub(before); d < 59*time.Minute || d > 61*time.Minute {
		t.Errorf("after a step of an hour the time moved by %v", d)
	}
}

func TestCalibrateErrors(t *testing.T) {
	refused := errors.New("refused")
	c := fake(time.Unix(1, 0), time.Microsecond)
	c.Kernel = func() (uint64, error) { return 0, refused }
	if err := c.Calibrate(); !errors.Is(err, refused) {
		t.Errorf("got %v, want the kernel's error", err)
	}
	if c = fake(time.Unix(1, 0), -time.Second); c.Calibrate() == nil {
		t.Error("a wall clock that only runs backwards gives no error")
	}
}

func TestDue(t *testing.T) {
	c := fake(time.Unix(1, 0), time.Microsecond)
	if !c.Due(5, time.Second) {
		t.Error("not due before the first calibration")
	}
	if err := c.Calibrate(); err != nil {
		t.Fatal(err)
	}
	if c.Due(1000+1e9, time.Second) || !c.Due(1001+1e9, time.Second) {
		t.Error("want it due once a second has passed")
	}
}
