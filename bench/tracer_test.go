package main

import (
	"strings"
	"testing"
)

// TestEnd: of what the others print, the ends of connections with a port are told from all else.
func TestEnd(t *testing.T) {
	for _, tt := range []struct {
		name, line string
		want       bool
	}{
		{tcplife, "PID     COMM             LADDR           LPORT RADDR           RPORT TX_KB  RX_KB  MS", false},
		{tcplife, "15010   client           127.0.0.1       56780 127.7.7.7       80    0.00   0.00   1.35", true},
		{tcplife, "15010   server           127.7.7.7       80    127.0.0.1       56780 0.00   0.00   1.35", true},
		{tcplife, "15010   server           127.7.7.7       8080  127.0.0.1       56780 0.00   0.00   1.35", false},
		{tcpstates, "SKADDR           PID     COMM       LADDR           LPORT RADDR           RPORT OLDSTATE    -> NEWSTATE    MS", false},
		{tcpstates, "ffff8884d3fd4a00 15010   client     127.0.0.1       56734 127.7.7.7       80    FIN_WAIT2   -> CLOSE       0.125", true},
		{tcpstates, "ffff8884d3fd4a00 15010   client     127.0.0.1       56734 127.7.7.7       80    ESTABLISHED -> CLOSE_WAIT  0.125", false},
		{tcpstates, "ffff8884d3fd4a00 15010   client     127.0.0.1       56734 127.7.7.7       81    FIN_WAIT2   -> CLOSE       0.125", false},
		{bpftrace, "Attaching 1 probe...", false},
		{bpftrace, "12345 15010 client 127.0.0.1 56734 127.7.7.7 80 5 7", true},
		{bpftrace, "12345 15010 client 127.0.0.1 56734 127.7.7.7 80 1 4", false},
	} {
		if got := named(tt.name).end(strings.Fields(tt.line), "80"); got != tt.want {
			t.Errorf("%s: %q is the end of a connection: %v, want %v", tt.name, tt.line, got, tt.want)
		}
	}
}

func TestLostIn(t *testing.T) {
	const said = "lost 7 events on CPU #0!\nLost 5 events\nlost 3 eventualities\n"
	if got := lostIn(said); got != 12 {
		t.Errorf("%d lost, want 12", got)
	}
}
