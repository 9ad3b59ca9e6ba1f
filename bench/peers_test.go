package main

import (
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/connspan/connspan/internal/actor"
)

// TestCount: connspan tells of each end of the connections that the client has made, by its records and by
// its counters.
func TestCount(t *testing.T) {
	s := settings{connspan: filepath.Join(t.TempDir(), "connspan"), window: 400 * time.Millisecond, payload: 64, compression: "none"}
	build := exec.Command("go", "build", "-o", s.connspan, "..")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building connspan: %v: %s", err, out)
	}
	l, err := newLane(s)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.close(); err != nil {
			t.Error(err)
		}
	})
	for _, name := range []string{ringsRead, all} {
		t.Run(name, func(t *testing.T) {
			blind := actor.Blind(t)
			got, err := l.count(t.Context(), named(name))
			if err != nil {
				t.Fatal(err)
			}
			missed := math.Round(got.missed * 2 * float64(got.flat.Count))
			if most := got.lost + got.refused + float64(blind()); got.flat.Count == 0 || missed > most {
				t.Errorf("%.0f ends of %d connections not told of, want at most %.0f", missed, got.flat.Count, most)
			}
			if name == all && missed < 0 {
				t.Errorf("%.0f more ends told of than %d connections have", -missed, got.flat.Count)
			}
			if got.violations != 0 {
				t.Errorf("%.0f violations of the order", got.violations)
			}
		})
	}
}
