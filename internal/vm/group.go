package main

import (
	"bytes"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// A group of tests runs in one guest.
type group struct {
	name     string
	about    string // what it is that the kernel, or the number of its CPUs, may change
	command  []string
	cpus     []int // vCPUs, each in a guest of its own
	preempt  bool  // once more, with two and a kernel that may be preempted anywhere
	long     bool  // not in a short run
	anywhere bool  // calls no tool of this machine: also for another architecture than its own
	parallel bool  // vCPUs run at the same time, each in a thread of the host's; else they take turns
	stall    bool  // the host stalls vCPU 1
	judge    func(*result, []byte)
}

// environment is how a test knows that it runs in a guest; see vm_test.go in package exporter.
const (
	environment       = "CONNSPAN_TEST_VM"
	noteMark          = "measured: " // begins a message of a test that belongs into the report
	preemptionFeature = "preemption" // what init calls it
)

// oldest is the first line of kernels that connspan runs on.
const oldest = "5.14"

var (
	scenarios = "TestScenario.*"
	crowds    = "TestCrowd"
	older     = "TestPreexisting|TestManyPreexisting|TestListenerOlderThanTracer|TestRestart"
	losses    = "TestOverflow"
	order     = "TestOrder.*|TestStalled|TestSoak"
	times     = "TestTimeNamespace|TestClockStep"
	hotplug   = "TestHotplug"
	stolen    = "TestStolen"
)

// groups are for the kernels that connspan runs on. What no other group names is among the records, so
// that no test is forgotten.
var groups = []group{
	{name: "check", about: "connspan check", command: []string{"/bin/connspan", "check"}, cpus: []int{2}, anywhere: true, judge: accepts},
	{
		name: "load", about: "loading, attaching, clock, waking, counters", command: []string{"/bin/probe.test"}, cpus: []int{1, 2, 4},
		preempt: true, long: true, anywhere: true,
	},
	{
		name: "scenarios", about: "connections, however they go, each with its exact records", command: exporter(scenarios), cpus: []int{1, 2, 4},
		preempt: true, anywhere: true,
	},
	{
		name: "records", about: "what else is told, and what becomes of it", cpus: []int{2}, long: true,
		command: []string{"/bin/exporter.test", "-test.skip=" + only(scenarios, crowds, older, losses, order, times, hotplug, stolen)},
	},
	{
		name: "crowds", about: "thousands of connections at a time, each told once", command: exporter(crowds), cpus: []int{1, 2, 4},
		preempt: true, anywhere: true,
	},
	{
		name: "coverage", about: "the kernel's own counters, beside what is told", command: []string{"/bin/coverage.test"}, cpus: []int{2},
		long: true,
	},
	{name: "older", about: "connections older than the tracer", command: exporter(older), cpus: []int{2}, long: true},
	{name: "losses", about: "full rings, and their repair", command: exporter(losses), cpus: []int{2}},
	{name: "hotplug", about: "CPUs go and come under load", command: exporter(hotplug), cpus: []int{4}, preempt: true, long: true},
	{name: "times", about: "time namespaces; the wall clock is set", command: exporter(times), cpus: []int{2}},
	{name: "order", about: "CPUs sleep inside the tracer", command: exporter(order), cpus: []int{2}, long: true, parallel: true},
	{
		name: "stolen", about: "the host stalls a vCPU, anywhere", command: exporter(stolen), cpus: []int{2},
		preempt: true, long: true, parallel: true, stall: true,
	},
}

// refusals are for the kernels that connspan does not run on.
var refusals = []group{
	{name: "check", command: []string{"/bin/connspan", "check"}, cpus: []int{2}, judge: refuses},
	{name: "run", command: []string{"/bin/connspan", "run"}, cpus: []int{2}, judge: refusesInOneLine},
}

func only(tests ...string) string { return "^(" + strings.Join(tests, "|") + ")$" }

func exporter(tests string) []string {
	return []string{"/bin/exporter.test", "-test.run=" + only(tests)}
}

// groupsOf gives what a kernel is to show.
func groupsOf(line string) []group {
	if compareVersions(line, oldest) < 0 {
		return refusals
	}
	return groups
}

// guests are those that show a group on a kernel. A short run has one of each, and so has an
// architecture that is not this machine's.
func (g *group) guests(k kernel, short bool) (all []guest) {
	switch {
	case !k.arch.native() && !g.anywhere:
	case short && g.long:
	case short || !k.arch.native():
		all = append(all, guest{kernel: k, cpus: 2, group: g})
	default:
		for _, cpus := range g.cpus {
			all = append(all, guest{kernel: k, cpus: cpus, group: g})
		}
		if g.preempt {
			all = append(all, guest{kernel: k, cpus: 2, preempt: "full", group: g})
		}
	}
	return all
}

// commandLine is the end of the kernel's: what it does not know becomes environment and arguments of
// init.
func (g *group) commandLine() string {
	where := "1"
	if g.stall {
		where = "stalled"
	}
	args := slices.Clone(g.command)
	if strings.HasSuffix(args[0], ".test") {
		args = append(args, "-test.v", "-test.short", fmt.Sprintf("-test.timeout=%v", patience))
	}
	return environment + "=" + where + " -- " + strings.Join(args, " ")
}

var program = regexp.MustCompile(`(?s)@@ kernel [^\n]*\n(.*?)\n@@ exit`)

// printed gives the lines that the program has printed.
func printed(console []byte) (lines []string) {
	console = bytes.ReplaceAll(console, []byte("\r"), nil)
	m := program.FindSubmatch(console)
	if m == nil {
		return nil
	}
	for line := range strings.Lines(string(m[1])) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "@@") {
			lines = append(lines, line)
		}
	}
	return lines
}

// accepts, refuses and refusesInOneLine judge the program itself.
func accepts(r *result, console []byte)          { judgeProgram(r, printed(console), 0, false) }
func refuses(r *result, console []byte)          { judgeProgram(r, printed(console), 1, false) }
func refusesInOneLine(r *result, console []byte) { judgeProgram(r, printed(console), 1, true) }

func judgeProgram(r *result, lines []string, exit int, oneLine bool) {
	switch {
	case r.exit < 0:
	case r.exit != exit || len(lines) == 0 || oneLine && len(lines) != 1:
		r.failed = append(r.failed, fmt.Sprintf("exit code %d, want %d: %s", r.exit, exit, strings.Join(lines, " | ")))
	default:
		r.exit, r.passed = 0, 1
		if exit != 0 {
			r.notes = append(r.notes, lines[len(lines)-1])
		}
	}
}
