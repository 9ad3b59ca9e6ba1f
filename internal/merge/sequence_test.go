package merge

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestSequence(t *testing.T) {
	type seen struct{ seq, time uint64 }
	tests := []struct {
		name string
		seen []seen
		upTo uint64
		want []Gap
	}{
		{"in turn", []seen{{0, 10}, {1, 11}, {2, 12}}, 20, nil},
		{"nested", []seen{{1, 11}, {0, 10}, {2, 12}}, 20, nil},
		{"nested twice", []seen{{2, 12}, {1, 11}, {0, 10}, {3, 13}}, 20, nil},
		{"one missing", []seen{{0, 10}, {2, 12}}, 20, []Gap{{CPU: 3, Missing: 1, After: 10, Before: 12}}},
		{"the first missing", []seen{{5, 10}}, 20, []Gap{{CPU: 3, Missing: 5, Before: 10}}},
		{"two gaps", []seen{{0, 10}, {4, 14}, {9, 19}}, 20, []Gap{{3, 3, 10, 14}, {3, 4, 14, 19}}},
		{"partly filled", []seen{{0, 10}, {6, 16}, {3, 13}}, 20, []Gap{{3, 2, 10, 16}, {3, 2, 10, 16}}},
		{"not settled yet", []seen{{0, 10}, {2, 12}}, 11, nil},
		{"a number twice", []seen{{0, 10}, {1, 11}, {1, 11}}, 20, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var s Sequence
			for _, e := range tt.seen {
				s.See(e.seq, e.time)
			}
			var got []Gap
			s.Settle(3, tt.upTo, func(g Gap) { got = append(got, g) })
			if d := cmp.Diff(tt.want, got); d != "" {
				t.Error(d)
			}
			s.Settle(3, tt.upTo, func(g Gap) { t.Errorf("%+v is reported again", g) })
		})
	}
}

func TestSequenceSettlesLater(t *testing.T) {
	var s Sequence
	s.See(1, 12)
	s.Settle(0, 11, func(g Gap) { t.Errorf("%+v, but number 0 may still come", g) })
	s.See(0, 10)
	s.Settle(0, 20, func(g Gap) { t.Errorf("%+v, but number 0 came", g) })
}
