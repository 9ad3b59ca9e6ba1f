package watch

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func samples() map[string]*connection {
	ap := netip.MustParseAddrPort
	return map[string]*connection{
		"db":   {process: "psql", pid: 12, role: "client", local: ap("10.1.0.7:40001"), peer: ap("10.0.0.5:5432")},
		"web":  {process: "nginx", service: "Shop", pid: 345, role: "server", local: ap("[2001:db8::1]:443"), peer: ap("[2001:db8::2]:5000")},
		"dead": {process: "curl", pid: 9, role: "client", state: failed, end: "connection_refused", local: ap("127.0.0.1:40002"), peer: ap("127.0.0.1:9")},
		"over": {role: "unknown", state: closed, end: "fin local", local: ap("[::ffff:10.0.0.5]:5432"), peer: ap("10.1.0.7:40001")},
	}
}

func TestFilter(t *testing.T) {
	for text, want := range map[string]string{
		"":                                "db dead over web",
		"  \t ":                           "db dead over web",
		"port:5432":                       "db over",
		"port:443":                        "web",
		"PORT:9":                          "dead",
		"pid:9":                           "dead",
		"process:NGI":                     "web",
		"process:shop":                    "",
		"service:shop":                    "web",
		"service:psql":                    "db", // called like its process
		"shop":                            "web",
		"[12]":                            "db",
		"state:failed":                    "dead",
		"state:o":                         "db web",
		"role:server":                     "web",
		"role:unknown":                    "over",
		"peer:10.0.0.0/8":                 "db over",
		"local:10.0.0.0/8":                "db over", // mapped to IPv6 too
		"peer:10.0.0.5":                   "db",
		"peer:10.0.0.5:5432":              "db",
		"peer:10.0.0.5:5433":              "",
		"local::5432":                     "over",
		"local:10.0.0.5:5432":             "over",
		"local:[2001:db8::1]:443":         "web",
		"local:2001:db8::1":               "web",
		"local:[2001:db8::1]":             "web",
		"local:2001:db8::/64":             "web",
		"2001:db8::2":                     "web",
		"dead:beef::1":                    "",
		"REFUSED":                         "dead",
		"127.0.0.1":                       "dead",
		"fin":                             "over",
		"client":                          "db dead",
		"client state:opened port:5432":   "db",
		"state:opened role:client peer:1": "error: filter \"peer:1\": want an address, a prefix such as 10.0.0.0/8, address:port or :port",
		"peer::":                          "error: filter \"peer::\": want an address, a prefix such as 10.0.0.0/8, address:port or :port",
		"port:":                           "error: filter \"port:\": want a value behind the colon",
		"port:65536":                      "error: filter \"port:65536\": want a port, 0 to 65535",
		"port:-1":                         "error: filter \"port:-1\": want a port, 0 to 65535",
		"pid:x":                           "error: filter \"pid:x\": want the number of a process",
		"state:openly":                    "error: filter \"state:openly\": want opened, closed, failed",
		"role:peer":                       "error: filter \"role:peer\": want client, server, unknown",
		"colour:red":                      "error: filter \"colour:red\": unknown key, want local, peer, pid, port, process, role, service, state",
	} {
		t.Run(text, func(t *testing.T) {
			f, err := ParseFilter(text)
			var got []string
			for name, c := range samples() {
				if err == nil && f.match(c) {
					got = append(got, name)
				}
			}
			if err != nil {
				got = []string{"error: " + err.Error()}
			}
			if diff := cmp.Diff(want, sorted(got)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// FuzzFilter: a filter or an error, never both; what it prints is the same filter; an error is one line.
func FuzzFilter(f *testing.F) {
	for _, text := range []string{"", "a b", "port:5432 peer:10.0.0.0/8", "local:[::1]:80", "peer:::", "x:y", ":", "state:\x1b", "peer:[", "local:%eth0"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		filter, err := ParseFilter(text)
		if err != nil {
			if len(filter.terms) > 0 || filter.String() != "" || strings.ContainsAny(err.Error(), "\n\x1b") {
				t.Errorf("%q: error %q and filter %v", text, err, filter)
			}
			return
		}
		again, err := ParseFilter(filter.String())
		if err != nil || again.String() != filter.String() {
			t.Fatalf("%q: %q becomes %q, %v", text, filter, again, err)
		}
		for name, c := range samples() {
			if filter.match(c) != again.match(c) {
				t.Errorf("%q: %s is matched by one of %q and %q", text, name, filter, again)
			}
		}
	})
}
