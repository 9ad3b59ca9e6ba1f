package exporter

import (
	"encoding/binary"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// wire sees each IPv4 segment that arrives in a namespace, and puts others there.
type wire struct {
	t         *testing.T
	tcp, icmp int
}

// packet is a segment as RFC 9293 section 3.1 has it.
type packet struct {
	from, to netip.AddrPort
	seq, ack uint32
	flags    byte
	payload  int    // octets
	raw      []byte // with its IP header, where it has arrived
}

const (
	flagFIN = 1 << iota
	flagSYN
	flagRST
	flagPSH
	flagACK
)

// wire is there until the scenario ends.
func (s *scene) wire() *wire {
	s.t.Helper()
	w := &wire{t: s.t}
	s.ns.Do("opening raw sockets", func() (err error) {
		if w.tcp, err = unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP); err != nil {
			return err
		}
		if w.icmp, err = unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMP); err != nil {
			return err
		}
		limit := unix.NsecToTimeval((20 * time.Second).Nanoseconds())
		return unix.SetsockoptTimeval(w.tcp, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit)
	})
	s.t.Cleanup(func() {
		_ = unix.Close(w.tcp)
		_ = unix.Close(w.icmp)
	})
	return w
}

// await gives the next segment that is meant.
func (w *wire) await(meant func(packet) bool) packet {
	w.t.Helper()
	b := make([]byte, 1<<16)
	for {
		n, _, err := unix.Recvfrom(w.tcp, b, 0)
		if err == unix.EINTR { //nolint:errorlint // a number
			continue
		}
		if err != nil {
			w.t.Fatalf("waiting for a segment: %v", err)
		}
		if p := parsePacket(b[:n]); meant(p) {
			return p
		}
	}
}

func parsePacket(b []byte) packet {
	tcp := b[int(b[0]&15)*4:]
	end := func(addr, port []byte) netip.AddrPort {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(addr)), binary.BigEndian.Uint16(port))
	}
	return packet{
		from: end(b[12:16], tcp), to: end(b[16:20], tcp[2:]),
		seq: binary.BigEndian.Uint32(tcp[4:]), ack: binary.BigEndian.Uint32(tcp[8:]), flags: tcp[13],
		payload: len(tcp) - int(tcp[12]>>4)*4, raw: append([]byte(nil), b...),
	}
}

// send puts a segment into the namespace. Its addresses are those of loopback, as the kernel fills them in.
func (w *wire) send(p packet) {
	w.t.Helper()
	b := make([]byte, 20+p.payload)
	binary.BigEndian.PutUint16(b, p.from.Port())
	binary.BigEndian.PutUint16(b[2:], p.to.Port())
	binary.BigEndian.PutUint32(b[4:], p.seq)
	binary.BigEndian.PutUint32(b[8:], p.ack)
	b[12], b[13] = 5<<4, p.flags
	binary.BigEndian.PutUint16(b[14:], 1<<15) // window
	from, to := p.from.Addr().As4(), p.to.Addr().As4()
	pseudo := append(append(append([]byte(nil), from[:]...), to[:]...), 0, unix.IPPROTO_TCP, byte(len(b)>>8), byte(len(b)))
	binary.BigEndian.PutUint16(b[16:], checksum(append(pseudo, b...)))
	if err := unix.Sendto(w.tcp, b, 0, &unix.SockaddrInet4{Addr: to}); err != nil {
		w.t.Fatalf("sending a segment: %v", err)
	}
}

// unreachable is ICMP's "destination unreachable" (RFC 792) for a segment.
func (w *wire) unreachable(code byte, of packet) {
	w.t.Helper()
	b := append([]byte{3, code, 0, 0, 0, 0, 0, 0}, of.raw...)
	binary.BigEndian.PutUint16(b[2:], checksum(b))
	if err := unix.Sendto(w.icmp, b, 0, &unix.SockaddrInet4{Addr: of.from.Addr().As4()}); err != nil {
		w.t.Fatalf("sending ICMP: %v", err)
	}
}

// checksum is RFC 1071's.
func checksum(b []byte) uint16 {
	if len(b)%2 == 1 {
		b = append(b, 0)
	}
	var sum uint32
	for ; len(b) > 0; b = b[2:] {
		sum += uint32(binary.BigEndian.Uint16(b))
	}
	sum = sum>>16 + sum&0xffff
	return ^uint16(sum>>16 + sum&0xffff)
}
