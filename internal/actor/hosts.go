package actor

import (
	"errors"
	"io"
	"net"
	"sync"
)

func init() {
	actors["host"] = host
	actors["callers"] = callers
}

// host serves so many connections: it reads each up to the client's FIN, replies and closes. It reports where
// it listens, and again when all have been served.
func host(p Plan, s *stage) error {
	l, err := net.Listen("tcp", p.Listen)
	if err != nil {
		return err
	}
	if err := s.report(Report{Local: l.Addr().(*net.TCPAddr).AddrPort()}); err != nil {
		return err
	}
	served := make(chan error, p.Connections)
	for range p.Connections {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			_, err := io.Copy(io.Discard, c)
			if err == nil {
				_, err = c.Write(make([]byte, p.Reply))
			}
			served <- errors.Join(err, c.Close())
		}()
	}
	for range p.Connections {
		err = errors.Join(err, <-served)
	}
	return errors.Join(err, l.Close(), s.report(Report{Ended: now()}))
}

// callers make so many connections, several at a time, and report when all are over. Of the request each
// has an octet more than the one before, so that both ends of it can be told from those of the others.
func callers(p Plan, s *stage) error {
	requests := make(chan int)
	errs := make(chan error, p.Connections)
	var workers sync.WaitGroup
	for range p.Workers {
		workers.Go(func() {
			for request := range requests {
				errs <- p.call(request)
			}
		})
	}
	for i := range p.Connections {
		requests <- p.Request + i
	}
	close(requests)
	workers.Wait()
	var err error
	for range p.Connections {
		err = errors.Join(err, <-errs)
	}
	return errors.Join(err, s.report(Report{Ended: now()}))
}

func (p Plan) call(request int) error {
	c, err := net.Dial("tcp", p.Connect)
	if err != nil {
		return err
	}
	_, err = c.Write(make([]byte, request))
	err = errors.Join(err, c.(*net.TCPConn).CloseWrite())
	if err == nil {
		_, err = io.Copy(io.Discard, c)
	}
	return errors.Join(err, c.Close())
}
