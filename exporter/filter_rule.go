package exporter

import (
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"

	"go.opentelemetry.io/collector/confmap"
	"golang.org/x/sys/unix"

	"github.com/connspan/connspan/internal/event"
)

// FilterRule includes or excludes the connections that it matches; it has either.
type FilterRule struct {
	Include *FilterMatch `mapstructure:"include"`
	Exclude *FilterMatch `mapstructure:"exclude"`
}

// FilterMatch matches a connection that has each property of which values are given. It has the property
// where one of the values is its own; where its own is not known it has not. Executable, Container and
// Service are globs: * is any text, ? any character.
type FilterMatch struct {
	// CIDR are prefixes of the peer's address.
	CIDR []string `mapstructure:"cidr,omitempty"`
	// Port is the server's; of a connection whose role is not known, that of either end.
	Port Ports `mapstructure:"port,omitempty"`
	// Role is client or server: the local end's part in the handshake.
	Role []string `mapstructure:"role,omitempty"`
	// Executable is for the path of what the owning process executes, or its name.
	Executable []string `mapstructure:"executable,omitempty"`
	// Container is for the id of the owner's container, for the first 12 characters of that, or for the
	// container's name where it is known.
	Container []string `mapstructure:"container,omitempty"`
	// Service is for the owner's service.name, as it is told.
	Service []string `mapstructure:"service,omitempty"`
	// NetNS are network namespaces of the local end.
	NetNS []NetNS `mapstructure:"netns,omitempty"`
}

const keyInclude, keyExclude = "include", "exclude"

// match gives what the rule has, and its key; nil where it has both or neither.
func (r *FilterRule) match() (key string, m *FilterMatch) {
	switch {
	case r.Include != nil && r.Exclude == nil:
		return keyInclude, r.Include
	case r.Exclude != nil && r.Include == nil:
		return keyExclude, r.Exclude
	}
	return "", nil
}

func validateFilter(rules []FilterRule) error {
	var errs []error
	for i, r := range rules {
		key, match := r.match()
		if match == nil {
			errs = append(errs, fmt.Errorf("filter::%d: want one of include and exclude", i))
			continue
		}
		for _, err := range match.validate() {
			errs = append(errs, fmt.Errorf("filter::%d::%s%w", i, key, err))
		}
	}
	return errors.Join(errs...)
}

// validate gives errors that go on after the key of the match.
func (m *FilterMatch) validate() (errs []error) {
	if len(m.CIDR)+len(m.Port)+len(m.Role)+len(m.Executable)+len(m.Container)+len(m.Service)+len(m.NetNS) == 0 {
		errs = append(errs, errors.New(": empty, want some of cidr, container, executable, netns, port, role and service"))
	}
	for _, text := range m.CIDR {
		if p, err := netip.ParsePrefix(text); err != nil || p.Addr().Is4In6() {
			errs = append(errs, fmt.Errorf("::cidr: %q, want a prefix such as 10.0.0.0/8 or fd00::/8", text))
		}
	}
	for _, port := range m.Port {
		if port < 1 || port > 65535 {
			errs = append(errs, fmt.Errorf("::port: %d, want 1 to 65535", port))
		}
	}
	for _, role := range m.Role {
		if _, err := roleOf(role); err != nil {
			errs = append(errs, fmt.Errorf("::role: %w", err))
		}
	}
	for _, names := range []struct {
		key   string
		globs []string
	}{{"executable", m.Executable}, {"container", m.Container}, {"service", m.Service}} {
		if slices.Contains(names.globs, "") {
			errs = append(errs, fmt.Errorf(`::%s: "", want a name or a glob`, names.key))
		}
	}
	for _, n := range m.NetNS {
		if _, err := n.number(); err != nil && !filepath.IsAbs(string(n)) {
			errs = append(errs, fmt.Errorf("::netns: %q, want the inode number of a network namespace, or a path such as /run/netns/blue", string(n)))
		}
	}
	return errs
}

// roleOf gives the role of that name: an unknown one is none that a rule could ask for.
func roleOf(name string) (event.Role, error) {
	for _, role := range []event.Role{event.Client, event.Server} {
		if roleNames[role] == name {
			return role, nil
		}
	}
	return event.RoleUnknown, fmt.Errorf("%q, want client or server", name)
}

// Ports are numbers of TCP ports, 1 to 65535.
type Ports []int

var _ confmap.ScalarUnmarshaler = (*Ports)(nil)

// UnmarshalScalar is given the whole list. It refuses what confmap would make another number of: 80 of
// 80.5, a negative one of 1e20.
func (*Ports) UnmarshalScalar(value confmap.ScalarValue) error {
	list, _ := value.GetRaw().([]any)
	for _, v := range list {
		if number, ok := v.(float64); ok && number != float64(uint16(number)) {
			return fmt.Errorf("%v, want a whole number, 1 to 65535", number)
		}
	}
	return confmap.ErrValueNotApplicable
}

// NetNS names a network namespace by its inode number, or by a path such as /run/netns/blue or
// /proc/1/ns/net, which is followed when the Exporter is made.
type NetNS string

var _ confmap.ScalarUnmarshaler = (*NetNS)(nil)

// UnmarshalScalar takes text, and numbers that are not in quotes.
func (n *NetNS) UnmarshalScalar(value confmap.ScalarValue) error {
	number, ok := value.GetRaw().(int)
	if !ok {
		return confmap.ErrValueNotApplicable
	}
	*n = NetNS(strconv.Itoa(number))
	return nil
}

func (n NetNS) number() (uint32, error) {
	number, err := strconv.ParseUint(string(n), 10, 32)
	return uint32(number), err
}

// inode looks where the path leads. The error names the path.
func (n NetNS) inode() (uint32, error) {
	if number, err := n.number(); err == nil {
		return number, nil
	}
	fd, err := unix.Open(string(n), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("opening %s: %w", n, err)
	}
	defer func() { _ = unix.Close(fd) }()
	if kind, err := unix.IoctlRetInt(fd, unix.NS_GET_NSTYPE); err != nil || kind != unix.CLONE_NEWNET {
		return 0, fmt.Errorf("%s: want a network namespace", n)
	}
	var stat unix.Stat_t
	if err := unix.Fstat(fd, &stat); err != nil {
		return 0, fmt.Errorf("looking at %s: %w", n, err)
	}
	return uint32(stat.Ino), nil
}
