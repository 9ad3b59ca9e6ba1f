package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"

	"golang.org/x/sys/unix"
)

const roleEnv = "CONNSPAN_BENCH_ROLE"

// A child is a process of this program that does what it is asked, a line of JSON for each request and
// one for each answer. It ends with its parent, whose end of the pipe it reads.
type child struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *json.Decoder
}

// newChild starts one, where isolated in a network namespace of its own.
func newChild(role string, isolated bool) (*child, error) {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), roleEnv+"="+role)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true} // Ctrl-C is for the parent, which ends the others
	if isolated {
		cmd.SysProcAttr.Cloneflags = unix.CLONE_NEWNET
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting a %s: %w", role, err)
	}
	return &child{cmd: cmd, in: in, out: json.NewDecoder(bufio.NewReader(out))}, nil
}

func (c *child) pid() int { return c.cmd.Process.Pid }

// ask sends a request and waits for its answer.
func (c *child) ask(request, answer any) error {
	if err := json.NewEncoder(c.in).Encode(request); err != nil {
		return fmt.Errorf("asking process %d: %w", c.pid(), err)
	}
	if err := c.out.Decode(answer); err != nil {
		return fmt.Errorf("waiting for the answer of process %d: %w", c.pid(), err)
	}
	return nil
}

// end lets the child end, and waits for that.
func (c *child) end() error { return errors.Join(c.in.Close(), c.cmd.Wait()) }

// endAll ends children that may not have been started.
func endAll(children ...*child) error {
	var errs []error
	for _, c := range children {
		if c != nil {
			errs = append(errs, c.end())
		}
	}
	return errors.Join(errs...)
}

// serve is the child's side: it answers until the parent is gone.
func serve[Request, Answer any](do func(Request) (Answer, error)) error {
	in, out := json.NewDecoder(os.Stdin), json.NewEncoder(os.Stdout)
	for {
		var request Request
		if err := in.Decode(&request); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		answer, err := do(request)
		if err != nil {
			return err
		}
		if err := out.Encode(answer); err != nil {
			return err
		}
	}
}

// isolated calls start in a new network namespace: the processes that it starts are born there.
func isolated(start func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // for good: the thread goes with the goroutine, and nobody else gets it
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("making a network namespace: %w", err)
			return
		}
		done <- errors.Join(prepareNetwork(), start())
	}()
	return <-done
}

// prepareNetwork makes the namespace of the calling thread one in which many connections over loopback
// can be: it has an interface, room for those that wait to be accepted, and for those in TIME_WAIT.
func prepareNetwork() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	lo.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo); err != nil {
		return fmt.Errorf("bringing the loopback interface up: %w", err)
	}
	for name, value := range map[string]string{
		"core/somaxconn":           "65535",
		"ipv4/ip_local_port_range": "1024 65535",
		"ipv4/tcp_max_tw_buckets":  "8000000",
	} {
		if err := os.WriteFile("/proc/sys/net/"+name, []byte(value), 0o644); err != nil {
			return fmt.Errorf("setting %s: %w", name, err)
		}
	}
	return nil
}
