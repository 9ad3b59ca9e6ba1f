package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

// line says in one line how a guest has fared.
func (r result) line() string {
	return fmt.Sprintf("%v: %s (%v)", r.guest, r.cell(), r.took.Round(time.Second))
}

// cell is the result in the table.
func (r result) cell() string {
	var parts []string
	if r.passed > 0 || r.ok() {
		parts = append(parts, fmt.Sprint(r.passed))
	}
	if n := len(r.skipped); n > 0 {
		parts = append(parts, fmt.Sprintf("%d skipped", n))
	}
	if n := len(r.failed); n > 0 {
		parts = append(parts, fmt.Sprintf("**%d failed**", n))
	}
	switch {
	case r.exit < 0:
		parts = append(parts, "**died**")
	case !r.ok() && len(r.failed) == 0:
		parts = append(parts, fmt.Sprintf("**exit code %d**", r.exit))
	}
	if r.attempts > 1 {
		parts = append(parts, "at the second try")
	}
	return strings.Join(parts, ", ")
}

const preface = `# Kernels

What ` + "`make test-kernels`" + ` has found; it writes this page. Each guest is a Debian kernel of the cloud flavour under QEMU
%s, which emulates its processors: they are 10 to 20 times slower than real ones. A cell has the number of tests that
passed; the program's own word, where it is to refuse, counts as one.

`

// page is the document about all results.
func page(qemuVersion string, results []result) string {
	slices.SortStableFunc(results, func(a, b result) int {
		return cmp.Or(compareVersions(a.kernel.line, b.kernel.line), cmp.Compare(a.cpus, b.cpus))
	})
	var b strings.Builder
	fmt.Fprintf(&b, preface, qemuVersion)
	b.WriteString("| group | shows |\n|---|---|\n")
	for _, g := range groups {
		fmt.Fprintf(&b, "| %s | %s |\n", g.name, g.about)
	}
	table(&b, results)
	features(&b, results)
	list(&b, "Refused", "What connspan says on a kernel older than "+oldest+".", results, func(r result) []string {
		if r.group.about != "" {
			return nil
		}
		return r.notes
	})
	list(&b, "Skipped", "With the reason.", results, func(r result) []string { return r.skipped })
	list(&b, "Failed", "", results, func(r result) []string { return r.failed })
	list(&b, "Measured", "By the tests themselves.", results, func(r result) []string {
		if r.group.about == "" {
			return nil
		}
		return r.notes
	})
	return b.String()
}

// table has a row for each kernel and number of vCPUs.
func table(b *strings.Builder, results []result) {
	b.WriteString("\n| kernel | vCPUs |")
	for _, g := range groups {
		fmt.Fprintf(b, " %s |", g.name)
	}
	b.WriteString("\n|---|---|" + strings.Repeat("---|", len(groups)) + "\n")
	for rest := results; len(rest) > 0; {
		first := rest[0]
		if first.group.about == "" {
			rest = rest[1:]
			continue
		}
		n := 0
		cells := map[string]string{}
		for n < len(rest) && rest[n].kernel == first.kernel && rest[n].cpus == first.cpus {
			cells[rest[n].group.name] = rest[n].cell()
			n++
		}
		fmt.Fprintf(b, "| %s | %d |", first.kernel.release, first.cpus)
		for _, g := range groups {
			fmt.Fprintf(b, " %s |", cells[g.name])
		}
		b.WriteString("\n")
		rest = rest[n:]
	}
}

// features has a row for each kernel.
func features(b *strings.Builder, results []result) {
	var last *result
	for i := range results {
		r := &results[i]
		if len(r.features) == 0 || last != nil && r.kernel == last.kernel {
			continue
		}
		head, rule, row := "| kernel |", "|---|", "| "+r.kernel.release+" |"
		for _, f := range r.features {
			head, rule, row = head+" "+f[0]+" |", rule+"---|", row+" "+f[1]+" |"
		}
		if last == nil {
			fmt.Fprintf(b, "\n## Features\n\nWhat not every kernel has, and connspan uses where it is.\n\n%s\n%s\n", head, rule)
		}
		fmt.Fprintln(b, row)
		last = r
	}
}

// list has what many guests say once, with their names.
func list(b *strings.Builder, title, about string, results []result, of func(result) []string) {
	var said []string
	where := map[string][]string{}
	for _, r := range results {
		for _, s := range of(r) {
			if where[s] == nil {
				said = append(said, s)
			}
			where[s] = append(where[s], r.String())
		}
	}
	if said == nil {
		return
	}
	fmt.Fprintf(b, "\n## %s\n\n", title)
	if about != "" {
		fmt.Fprintf(b, "%s\n\n", about)
	}
	for _, s := range said {
		fmt.Fprintf(b, "- %s (%s)\n", s, strings.Join(where[s], "; "))
	}
}
