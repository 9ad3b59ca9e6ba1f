package watch

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/connspan/connspan/internal/event"
)

// A Filter chooses connections. The zero Filter chooses all. It may be used concurrently.
type Filter struct {
	text  string
	terms []func(*connection) bool // all must hold
}

// ParseFilter reads the words of text, all of which must hold. A plain word is looked for in all texts
// of a connection; key:value asks for one of them:
//
//	port:5432           either end's port
//	local:ADDR          its address: an address, a prefix such as 10.0.0.0/8, address:port or :port
//	peer:ADDR           likewise
//	process:nginx       a part of the process's name
//	service:shop        a part of the service's name
//	pid:1234
//	state:failed        opened, closed or failed
//	role:server         client, server or unknown
//
// Case makes no difference; a state or role may be cut short. The error names the word, and what was
// expected.
func ParseFilter(text string) (Filter, error) {
	f := Filter{}
	words := strings.Fields(text)
	f.text = strings.Join(words, " ")
	for _, word := range words {
		term, err := parseTerm(strings.ToLower(word))
		if err != nil {
			return Filter{}, fmt.Errorf("filter %q: %w", event.Printable(word), err)
		}
		f.terms = append(f.terms, term)
	}
	return f, nil
}

// String is the text that the filter was made of.
func (f Filter) String() string { return f.text }

// match reports whether the filter chooses c.
func (f Filter) match(c *connection) bool {
	for _, term := range f.terms {
		if !term(c) {
			return false
		}
	}
	return true
}

// keys are what may stand before a colon, with what reads the value behind it.
var keys = map[string]func(value string) (func(*connection) bool, error){
	"port": func(value string) (func(*connection) bool, error) {
		port, err := strconv.ParseUint(value, 10, 16)
		if err != nil {
			return nil, errors.New("want a port, 0 to 65535")
		}
		return func(c *connection) bool { return c.local.Port() == uint16(port) || c.peer.Port() == uint16(port) }, nil
	},
	"pid": func(value string) (func(*connection) bool, error) {
		pid, err := strconv.ParseUint(value, 10, 31)
		if err != nil {
			return nil, errors.New("want the number of a process")
		}
		return func(c *connection) bool { return c.pid == int64(pid) }, nil
	},
	"local":   end(func(c *connection) netip.AddrPort { return c.local }),
	"peer":    end(func(c *connection) netip.AddrPort { return c.peer }),
	"process": part(func(c *connection) string { return c.process }),
	"service": part(func(c *connection) string { return c.serviceName() }),
	"state":   one(states[:], func(c *connection) string { return c.state.String() }),
	"role":    one(roles, func(c *connection) string { return c.role }),
}

var keyNames = []string{"local", "peer", "pid", "port", "process", "role", "service", "state"}

func parseTerm(word string) (func(*connection) bool, error) {
	key, value, ok := strings.Cut(word, ":")
	if !ok || !isKey(word, key) {
		return func(c *connection) bool { return c.contains(word) }, nil
	}
	parse, ok := keys[key]
	if !ok {
		return nil, fmt.Errorf("unknown key, want %s", strings.Join(keyNames, ", "))
	}
	if value == "" {
		return nil, errors.New("want a value behind the colon")
	}
	return parse(value)
}

// isKey tells a key from the beginning of an IPv6 address.
func isKey(word, key string) bool {
	if _, err := netip.ParseAddr(word); err == nil {
		return false
	}
	return key != "" && strings.Trim(key, "abcdefghijklmnopqrstuvwxyz") == ""
}

func part(of func(*connection) string) func(string) (func(*connection) bool, error) {
	return func(value string) (func(*connection) bool, error) {
		return func(c *connection) bool { return containsFold(of(c), value) }, nil
	}
}

func one(all []string, of func(*connection) string) func(string) (func(*connection) bool, error) {
	return func(value string) (func(*connection) bool, error) {
		if !slices.ContainsFunc(all, func(s string) bool { return strings.HasPrefix(s, value) }) {
			return nil, fmt.Errorf("want %s", strings.Join(all, ", "))
		}
		return func(c *connection) bool { return strings.HasPrefix(of(c), value) }, nil
	}
}

// end takes an address, a prefix, either of an address and a port, or a port alone.
func end(of func(*connection) netip.AddrPort) func(string) (func(*connection) bool, error) {
	return func(value string) (func(*connection) bool, error) {
		if prefix, err := parsePrefix(value); err == nil {
			return func(c *connection) bool { return prefix.Contains(of(c).Addr().Unmap()) }, nil
		}
		if end, err := netip.ParseAddrPort(value); err == nil {
			end = netip.AddrPortFrom(end.Addr().Unmap(), end.Port())
			return func(c *connection) bool {
				return end == netip.AddrPortFrom(of(c).Addr().Unmap(), of(c).Port())
			}, nil
		}
		if port, err := strconv.ParseUint(strings.TrimPrefix(value, ":"), 10, 16); err == nil && value[0] == ':' {
			return func(c *connection) bool { return of(c).Port() == uint16(port) }, nil
		}
		return nil, errors.New("want an address, a prefix such as 10.0.0.0/8, address:port or :port")
	}
}

// parsePrefix takes an address for the prefix that has it alone.
func parsePrefix(value string) (netip.Prefix, error) {
	if addr, err := netip.ParseAddr(strings.Trim(value, "[]")); err == nil {
		addr = addr.Unmap().WithZone("")
		return netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	return netip.ParsePrefix(value)
}

// contains looks for word, in lower case, in what a row says in words.
func (c *connection) contains(word string) bool {
	return containsFold(c.owner(), word) || containsFold(c.state.String(), word) || containsFold(c.role, word) ||
		containsFold(c.local.String(), word) || containsFold(c.peer.String(), word) || containsFold(c.end, word)
}

func containsFold(s, lower string) bool { return strings.Contains(strings.ToLower(s), lower) }

// serviceName is the service's, also where the process is called the same.
func (c *connection) serviceName() string {
	if c.service != "" {
		return c.service
	}
	return c.process
}
