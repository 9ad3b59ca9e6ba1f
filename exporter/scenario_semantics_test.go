package exporter

import (
	"os"
	"regexp"
	"slices"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
)

// TestSemantics: docs/semantics.md has a row for each scenario, in the order of the suite, and none for anything else.
func TestSemantics(t *testing.T) {
	if os.Getenv(guestEnv) != "" {
		t.Skip("a virtual machine has no documents")
	}
	b, err := os.ReadFile("../docs/semantics.md")
	if err != nil {
		t.Fatal(err)
	}
	var rows, names []string
	for _, m := range regexp.MustCompile("(?m)^\\| `([^`]+)` \\| [^|]+ \\| [^|]+ \\| [^|]+ \\|$").FindAllSubmatch(b, -1) {
		rows = append(rows, string(m[1]))
	}
	for _, sc := range scenarios {
		names = append(names, sc.name)
	}
	if d := gocmp.Diff(names, rows); d != "" {
		t.Errorf("scenarios (-suite +document):\n%s", d)
	}
	slices.Sort(names)
	if unique := slices.Compact(slices.Clone(names)); len(unique) != len(names) {
		t.Errorf("%d scenarios have %d names", len(names), len(unique))
	}
}
