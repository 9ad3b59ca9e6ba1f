package exporter

import (
	"fmt"
	"os"
	"os/exec"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/connspan/connspan/internal/actor"
	"github.com/connspan/connspan/internal/probe"
)

// timeNamespace says to the test that it runs in one, shifted by timeShift.
const (
	timeNamespace = "CONNSPAN_TEST_TIME_NAMESPACE"
	timeShift     = 24 * time.Hour
)

// TestTimeNamespace: in a time namespace the process's CLOCK_MONOTONIC is not the clock that stamps
// the events. The records' times are right all the same, and nothing waits for the clocks to meet.
func TestTimeNamespace(t *testing.T) {
	if os.Getenv(timeNamespace) == "" {
		enterTimeNamespace(t)
		return
	}
	checkShifted(t)
	tr := startTrace(t, nil)
	plan := actor.Plan{Listen: "127.0.0.1:0", Request: 120, Reply: 5300, How: actor.ClientCloses}
	orderly := expectation{client: end{"fin", "local", ""}, server: end{"fin", "peer", ""}}
	for range 20 {
		p := actor.Start(t, "pair", plan)
		truth := act(p, nil)
		p.Wait()
		tr.awaitWithin(5*time.Second, 4, p.PID())
		orderly.clientPID, orderly.serverPID = p.PID(), p.PID()
		check(t, tr, plan, truth, orderly)
	}
	tr.stop()
	if tr.stats.Pending != 0 {
		t.Errorf("stats %+v, want nothing held", tr.stats)
	}
}

// enterTimeNamespace runs the calling test again, in a time namespace, as a process of its own.
func enterTimeNamespace(t *testing.T) {
	t.Helper()
	if _, err := os.Stat("/proc/self/ns/time"); err != nil {
		t.Skip("the kernel has no time namespaces: it needs CONFIG_TIME_NS")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	shift := fmt.Sprint(int(timeShift.Seconds()))
	cmd := exec.CommandContext(t.Context(), "unshare", "--time", "--fork", "--monotonic", shift, "--",
		self, "-test.run", "^"+t.Name()+"$", "-test.v", "-test.count", "1")
	cmd.Env = append(os.Environ(), timeNamespace+"=1")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Logf("%s", out)
}

// checkShifted: otherwise the test shows nothing.
func checkShifted(t *testing.T) {
	t.Helper()
	tracer, err := probe.Load(probe.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer tracer.Close()
	kernel, err := tracer.Now()
	if err != nil {
		t.Fatal(err)
	}
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		t.Fatal(err)
	}
	if d := time.Duration(uint64(ts.Nano()) - kernel); (d - timeShift).Abs() > time.Second {
		t.Fatalf("CLOCK_MONOTONIC is %v ahead of the programs' clock, want about %v", d, timeShift)
	}
}
