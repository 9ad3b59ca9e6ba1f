package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// line says in one line how a guest has fared.
func (r result) line() string {
	return fmt.Sprintf("%v: %s (%s)", r.guest, r.cell(), r.took)
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
passed; the program's own word, where it is to refuse, counts as one. An empty one was not to be run, or is named below.

%s.

`

// totals counts what has been run, of what was to be.
func totals(guests []guest, results []result) string {
	var passed, skipped, failed, died int
	for _, r := range results {
		passed += r.passed
		skipped += len(r.skipped)
		failed += len(r.failed)
		if !r.ok() && len(r.failed) == 0 {
			died++
		}
	}
	return fmt.Sprintf("%d tests run in %d guests: %d passed, %d failed; %d skipped, each with its reason; %d guests died, and %d of %d were not run",
		passed+failed, len(results), passed, failed, skipped, died, len(guests)-len(results), len(guests))
}

// page is the document about all results.
func page(qemuVersion string, guests []guest, results []result) string {
	slices.SortStableFunc(results, func(a, b result) int {
		return cmp.Or(cmp.Compare(a.kernel.arch.name, b.kernel.arch.name), compareVersions(a.kernel.line, b.kernel.line),
			cmp.Compare(a.preempt, b.preempt), cmp.Compare(a.cpus, b.cpus))
	})
	var b strings.Builder
	fmt.Fprintf(&b, preface, qemuVersion, totals(guests, results))
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
	list(&b, "Not run", "The run was interrupted.", notRun(guests, results), func(result) []string { return []string{"no result"} })
	list(&b, "Measured", "By the tests themselves.", results, func(r result) []string {
		if r.group.about == "" {
			return nil
		}
		return r.notes
	})
	return b.String()
}

// notRun gives the guests that have no result.
func notRun(guests []guest, results []result) (missing []result) {
	for _, g := range guests {
		if !slices.ContainsFunc(results, func(r result) bool { return r.guest == g }) {
			missing = append(missing, result{guest: g})
		}
	}
	return missing
}

// table has a row for each kernel, model of preemption and number of vCPUs.
func table(b *strings.Builder, results []result) {
	b.WriteString("\n| kernel | preemption | vCPUs |")
	for _, g := range groups {
		fmt.Fprintf(b, " %s |", g.name)
	}
	b.WriteString("\n|---|---|---|" + strings.Repeat("---|", len(groups)) + "\n")
	type row struct {
		release, preemption string
		cpus                int
	}
	var rows []row
	cells := map[row]map[string]string{}
	for _, r := range results {
		if r.group.about == "" {
			continue
		}
		at := row{r.kernel.release, r.preemption(), r.cpus}
		if cells[at] == nil {
			rows = append(rows, at)
			cells[at] = map[string]string{}
		}
		cells[at][r.group.name] = r.cell()
	}
	for _, at := range rows {
		fmt.Fprintf(b, "| %s | %s | %d |", at.release, at.preemption, at.cpus)
		for _, g := range groups {
			fmt.Fprintf(b, " %s |", cells[at][g.name])
		}
		b.WriteString("\n")
	}
}

// features has a row for each kernel.
func features(b *strings.Builder, results []result) {
	var last *result
	for i := range results {
		r := &results[i]
		if len(r.features) == 0 || r.preempt != "" || last != nil && r.kernel == last.kernel {
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
