package main

import (
	"fmt"
	"math"
	"os"
	"slices"
	"strings"
)

// A spread is what several rounds have measured.
type spread struct{ median, low, high float64 }

// spreadOf leaves out what is not a number; of nothing it is not a number.
func spreadOf(values []float64) spread {
	values = slices.DeleteFunc(slices.Clone(values), math.IsNaN)
	if len(values) == 0 {
		return spread{math.NaN(), math.NaN(), math.NaN()}
	}
	slices.Sort(values)
	n := len(values)
	return spread{(values[(n-1)/2] + values[n/2]) / 2, values[0], values[n-1]}
}

// cell is the median with the lowest and the highest, each in that format.
func (s spread) cell(format string) string {
	if math.IsNaN(s.median) {
		return "–"
	}
	median, low, high := fmt.Sprintf(format, s.median), fmt.Sprintf(format, s.low), fmt.Sprintf(format, s.high)
	if low == high {
		return median
	}
	return fmt.Sprintf("%s (%s to %s)", median, low, high)
}

// A table is one of Markdown.
type table [][]string

func (t *table) add(cells ...string) { *t = append(*t, cells) }

// String has the first row as the head.
func (t table) String() string {
	var b strings.Builder
	for i, row := range t {
		b.WriteString("| " + strings.Join(row, " | ") + " |\n")
		if i == 0 {
			b.WriteString("|---" + strings.Repeat("|---:", len(row)-1) + "|\n")
		}
	}
	return b.String()
}

// An aim is what a measurement is held against.
type aim struct {
	what   string
	got    spread
	atMost bool // or at least
	want   float64
	format string
}

func (a aim) met() string {
	switch {
	case math.IsNaN(a.got.median):
		return "not measured"
	case a.atMost && a.got.median <= a.want, !a.atMost && a.got.median >= a.want:
		return "met"
	}
	return "**not met**"
}

// aims are as a table.
func aims(all []aim) string {
	t := table{{"aim", "measured", "aimed at", ""}}
	for _, a := range all {
		bound := "at least "
		if a.atMost {
			bound = "at most "
		}
		t.add(a.what, a.got.cell(a.format), bound+fmt.Sprintf(a.format, a.want), a.met())
	}
	return t.String()
}

// writeSection puts text between the marks of that section of a document.
func writeSection(page, name, text string) error {
	b, err := os.ReadFile(page)
	if err != nil {
		return err
	}
	document, err := replaceSection(string(b), name, text)
	if err != nil {
		return fmt.Errorf("writing into %s: %w", page, err)
	}
	return os.WriteFile(page, []byte(document), 0o644)
}

func replaceSection(document, name, text string) (string, error) {
	begin, end := "<!-- begin "+name+" -->\n", "<!-- end "+name+" -->\n"
	before, rest, ok := strings.Cut(document, begin)
	_, after, ended := strings.Cut(rest, end)
	if !ok || !ended {
		return "", fmt.Errorf("want %q and %q, a line each", strings.TrimSpace(begin), strings.TrimSpace(end))
	}
	return before + begin + "\n" + text + "\n" + end + after, nil
}
