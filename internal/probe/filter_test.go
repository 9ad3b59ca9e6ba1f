package probe

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/connspan/connspan/internal/event"
)

// TestLargestFilter: the verifier takes as many rules, with as many values, as there may be, and no more are
// tried.
func TestLargestFilter(t *testing.T) {
	rule := FilterRule{
		Exclude: true, Roles: []event.Role{event.Client, event.Server},
		NetNS: slices.Repeat([]uint32{1}, maxFilterValues), Ports: slices.Repeat([]uint16{1}, maxFilterValues),
		Peers: slices.Repeat([]netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}, maxFilterValues),
	}
	tracer, err := Load(Config{Filter: slices.Repeat([]FilterRule{rule}, MaxFilterRules)})
	if err != nil {
		t.Fatal(err)
	}
	if err := tracer.Close(); err != nil {
		t.Error(err)
	}
	large := rule
	large.Ports = append(large.Ports, 2)
	for want, rules := range map[string][]FilterRule{
		"filter: 9 rules, want at most 8":                              slices.Repeat([]FilterRule{rule}, MaxFilterRules+1),
		"filter: rule 1 has too many values, want at most 8 of a kind": {rule, large},
	} {
		if _, err := Load(Config{Filter: rules}); err == nil || err.Error() != want {
			t.Errorf("error %v, want %s", err, want)
		}
	}
}
