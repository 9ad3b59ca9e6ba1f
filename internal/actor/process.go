// Package actor gives tests processes whose TCP connections are to be traced: the tracer leaves
// its own process out, so the test itself cannot be the one that connects.
//
// A test binary that calls [Main] in its TestMain can [Start] itself again as any actor here.
package actor

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"
)

const nameEnv, planEnv = "CONNSPAN_ACTOR", "CONNSPAN_ACTOR_PLAN"

// Main turns this process into the actor that it was started as, and does not return then. In any
// other process it does nothing. Call it first in TestMain.
func Main() {
	name := os.Getenv(nameEnv)
	if name == "" {
		return
	}
	var plan Plan
	err := json.Unmarshal([]byte(os.Getenv(planEnv)), &plan)
	if err == nil {
		err = actors[name](plan, &stage{in: bufio.NewReader(os.Stdin), out: json.NewEncoder(os.Stdout)})
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "actor %s: %v\n", name, err)
		os.Exit(1) //nolint:revive // this is the process's main function
	}
	os.Exit(0) //nolint:revive // this is the process's main function
}

// stage is what an actor talks to its test through: reports out, a line in for each cue.
type stage struct {
	in  *bufio.Reader
	out *json.Encoder
}

func (s *stage) report(r Report) error {
	// The thread's, for an actor may have made a namespace for it.
	var netns unix.Stat_t
	if err := unix.Stat("/proc/thread-self/ns/net", &netns); err != nil {
		return fmt.Errorf("looking at the network namespace: %w", err)
	}
	r.PID, r.User, r.NetNS = os.Getpid(), os.Getuid(), netns.Ino
	return s.out.Encode(r)
}

// cue waits for the test's [Process.Cue].
func (s *stage) cue() error {
	_, err := s.in.ReadString('\n')
	return err
}

// A Process is an actor at work, ended at the latest with its test.
type Process struct {
	t    testing.TB
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  *json.Decoder
	done bool
}

// Start runs the actor of that name in a process of its own.
func Start(t testing.TB, name string, plan Plan) *Process {
	t.Helper()
	if actors[name] == nil {
		t.Fatalf("no actor %q", name)
	}
	b, err := json.Marshal(plan)
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	// A process built with the race detector sleeps for a second before it exits, unless told not to.
	cmd.Env = append(os.Environ(), nameEnv+"="+name, planEnv+"="+string(b), "GORACE=atexit_sleep_ms=0",
		"GODEBUG=asyncpreemptoff=1") // nor has it signals of its own that would interrupt its calls
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := &Process{t: t, cmd: cmd, in: in, out: json.NewDecoder(out)}
	t.Cleanup(p.Kill)
	return p
}

// PID is the process's id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Report waits for the actor's next report.
func (p *Process) Report() Report {
	p.t.Helper()
	var r Report
	if err := p.out.Decode(&r); err != nil {
		p.t.Fatalf("waiting for an actor's report: %v", err)
	}
	return r
}

// Cue lets the actor go on.
func (p *Process) Cue() {
	p.t.Helper()
	if _, err := io.WriteString(p.in, "\n"); err != nil {
		p.t.Fatalf("cueing an actor: %v", err)
	}
}

// Wait waits for the actor's good end.
func (p *Process) Wait() {
	p.t.Helper()
	p.done = true
	if err := p.cmd.Wait(); err != nil {
		p.t.Fatalf("waiting for an actor: %v", err)
	}
}

// Kill ends the actor with SIGKILL, unless it has ended.
func (p *Process) Kill() {
	if p.done {
		return
	}
	p.done = true
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait()
}
