package actor

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"

	"golang.org/x/sys/unix"
)

func init() {
	actors["prefork"] = prefork
	actors["worker"] = work
}

// prefork listens and leaves it to workers to accept: processes of their own that share its socket. It
// reports where it listens, and then for each connection which worker has served it.
func prefork(p Plan, s *stage) error {
	l, err := net.Listen("tcp", p.Listen)
	if err != nil {
		return err
	}
	file, err := l.(*net.TCPListener).File()
	if err != nil {
		return err
	}
	if err := s.report(Report{Local: l.Addr().(*net.TCPAddr).AddrPort()}); err != nil {
		return err
	}
	served := make(chan Report)
	for range p.Workers {
		if err := startWorker(p, file, served); err != nil {
			return err
		}
	}
	for r := range served {
		if err := s.out.Encode(r); err != nil {
			return err
		}
	}
	return nil
}

// startWorker runs one that ends with this process.
func startWorker(p Plan, listener *os.File, served chan<- Report) error {
	b, err := json.Marshal(p)
	if err != nil {
		return err
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), nameEnv+"=worker", planEnv+"="+string(b))
	cmd.ExtraFiles = []*os.File{listener}
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	go func() {
		for in := json.NewDecoder(bufio.NewReader(out)); ; {
			var r Report
			if in.Decode(&r) != nil {
				return
			}
			served <- r
		}
	}()
	return nil
}

// work accepts from the socket that it was started with, and reports each connection that is over.
func work(p Plan, s *stage) error {
	l, err := net.FileListener(os.NewFile(3, "listener"))
	if err != nil {
		return err
	}
	for {
		c, err := l.Accept()
		if err != nil {
			return fmt.Errorf("accepting: %w", err)
		}
		peer := c.RemoteAddr().(*net.TCPAddr).AddrPort()
		if err := p.answer(c.(*net.TCPConn)); err != nil {
			return err
		}
		if err := s.report(Report{Peer: peer}); err != nil {
			return err
		}
	}
}
