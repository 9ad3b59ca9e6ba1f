package exporter

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/collector/pdata/ptrace"
)

// synProxy has the router answer the SYNs to the service itself, and open a connection to the server only when
// the client's handshake is over. So the client knows another initial sequence number of the server than the
// server.
const synProxy = `table ip proxy {
	chain prerouting {
		type filter hook prerouting priority raw
		tcp dport 9000 tcp flags syn notrack
	}
	chain forward {
		type filter hook forward priority filter
		tcp dport 9000 ct state invalid,untracked synproxy mss 1460 wscale 7 timestamp sack-perm
		ct state invalid drop
	}
}`

// TestBehindSYNProxy: the ends of what goes through a SYN proxy cannot know that they are of one connection.
// Each is told of all the same, in a trace of its own; none is joined with a wrong one, and what goes past the
// proxy, at the same time through address translation, is joined as ever. Without pairing every span is a root.
func TestBehindSYNProxy(t *testing.T) {
	const each = 20
	sites := twoSites(t)
	router := fmt.Sprintf("connspan-%d-router", os.Getpid()) // twoSites calls it so
	ip(t, "", "netns", "exec", router, "sh", "-c", "echo 0 >/proc/sys/net/netfilter/nf_conntrack_tcp_loose")
	load := exec.CommandContext(t.Context(), "ip", "netns", "exec", router, "nft", "-f", "-")
	load.Stdin = strings.NewReader(synProxy)
	if out, err := load.CombinedOutput(); err != nil {
		t.Skipf("needs CONFIG_NFT_SYNPROXY: %v: %s", err, out)
	}
	conversePaired(t, sites, each, func(t *testing.T, pairing string) {
		traces := join(t, sites[:]...)
		// By spans of a trace: two of each translated connection, one of each end of the others.
		wantTraces := map[int]int{2: 2 * each, 1: 2 * 2 * each}
		if pairing == PairingNone {
			wantTraces = map[int]int{1: 2 * 4 * each}
		}
		lengths := map[int]int{}
		for id, spans := range traces {
			lengths[len(spans)]++
			if len(spans) == 2 {
				if w := wrong(spans); w != "" || spans[0].str(attrLocalAddr) == spans[1].str(attrPeerAddr) {
					t.Errorf("trace %s: not of a translated connection, or wrong: %s", id, w)
				}
				continue
			}
			isRoot := spans[0].ParentSpanID().IsEmpty()
			if wantRoot := pairing == PairingNone || spans[0].Kind() == ptrace.SpanKindClient; isRoot != wantRoot {
				t.Errorf("trace %s: a %s span alone, root %v", id, spans[0].Kind(), isRoot)
			}
		}
		if d := gocmp.Diff(wantTraces, lengths); d != "" {
			t.Errorf("traces, by their spans (-want +got):\n%s", d)
		}
		calls := 0 // whoever made them: so short a caller may have exited before its name was read
		for _, n := range dependencies(traces) {
			calls += n
		}
		if calls != wantTraces[2] {
			t.Errorf("%d calls from service to service, want %d", calls, wantTraces[2])
		}
	})
}
