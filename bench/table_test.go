package main

import (
	"math"
	"testing"
	"time"
)

func TestSpread(t *testing.T) {
	nan := math.NaN()
	for _, tt := range []struct {
		name   string
		values []float64
		want   string
	}{
		{"nothing", nil, "–"},
		{"not measured", []float64{nan}, "–"},
		{"one", []float64{2}, "2.0"},
		{"odd", []float64{3, 1, 2}, "2.0 (1.0 to 3.0)"},
		{"even", []float64{4, 1, 2, 3}, "2.5 (1.0 to 4.0)"},
		{"one of them not measured", []float64{3, nan, 1}, "2.0 (1.0 to 3.0)"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := spreadOf(tt.values).cell("%.1f"); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestAims(t *testing.T) {
	for _, tt := range []struct {
		got    float64
		atMost bool
		want   string
	}{
		{2, true, "met"},
		{2.1, true, "**not met**"},
		{2, false, "met"},
		{1.9, false, "**not met**"},
		{math.NaN(), true, "not measured"},
	} {
		if got := (aim{got: spreadOf([]float64{tt.got}), atMost: tt.atMost, want: 2}).met(); got != tt.want {
			t.Errorf("%v held against 2, at most %v: %s, want %s", tt.got, tt.atMost, got, tt.want)
		}
	}
}

func TestReplaceSection(t *testing.T) {
	const document = "before\n<!-- begin a -->\nold\n<!-- end a -->\nbetween\n<!-- begin b -->\n<!-- end b -->\n"
	got, err := replaceSection(document, "a", "new\n")
	want := "before\n<!-- begin a -->\n\nnew\n\n<!-- end a -->\nbetween\n<!-- begin b -->\n<!-- end b -->\n"
	if err != nil || got != want {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
	if again, err := replaceSection(got, "a", "new\n"); err != nil || again != got {
		t.Errorf("the second time %q, %v, want %q", again, err, got)
	}
	if _, err := replaceSection(document, "c", ""); err == nil {
		t.Error("a section that is not there has been replaced")
	}
}

func TestParseStat(t *testing.T) {
	const stat = "cpu  100 1 50 700 30 0 5 20 0 0\ncpu0 50 0 25 350 15 0 2 10 0 0\ncpu1 50 1 25 350 15 0 3 10 0 0\nintr 5\n"
	idle, cpus, err := parseStat([]byte(stat))
	if err != nil || idle != 7500*time.Millisecond || cpus != 2 {
		t.Errorf("%v idle of %d processors, %v, want 7.5s of 2", idle, cpus, err)
	}
	if _, _, err := parseStat(nil); err == nil {
		t.Error("no processors are no error")
	}
}
