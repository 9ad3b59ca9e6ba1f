package exporter

import "testing"

// TestScenarioAgain: a scenario that could not be seen as it was is played again, twice at most; then its
// mismatch counts.
func TestScenarioAgain(t *testing.T) {
	blind, played, counted := 0, 0, 0
	s := &suite{
		t: t, tr: startTrace(t, undisturbed), blind: func() int { return blind },
		kernel: map[string]int64{}, seen: map[string]int64{}, explained: map[string]int64{},
	}
	s.play(t, scenario{"never seen", func(sn *scene) {
		played++
		blind++
		sn.excuse()
		counted++
	}})
	if played != 1+replays || counted != 1 || len(s.repeated) != replays {
		t.Errorf("played %d times, %d of them with its mismatch counted, %d told; want %d, 1, %d", played, counted, len(s.repeated), 1+replays, replays)
	}
	played = 0
	s.play(t, scenario{"seen", func(sn *scene) {
		played++
		sn.excuse()
	}})
	if played != 1 {
		t.Errorf("a scenario that was seen is played %d times, want 1", played)
	}
}
