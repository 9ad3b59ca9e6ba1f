package exporter

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/connspan/connspan/internal/event"
	"github.com/connspan/connspan/internal/owner"
	"github.com/connspan/connspan/internal/probe"
)

// filter says which connections are told of. Like the resources that it asks, it is not safe for
// concurrent use.
type filter []rule

// rule is a compiled FilterRule: it matches where all criteria do.
type rule struct {
	include  bool
	criteria []criterion
	early    *probe.FilterRule // the same for the programs; nil where they do not know enough
}

// criterion says whether the connection of an event has a property. What is not known it has not.
type criterion func(*event.Event) bool

// newFilter compiles what FilterRule.validate has found valid. It fails where a path leads to no network
// namespace.
func newFilter(rules []FilterRule, processes *resources) (f filter, err error) {
	for i, r := range rules {
		key, match := r.match()
		compiled, err := match.compile(processes)
		if err != nil {
			return nil, fmt.Errorf("filter::%d::%s::%w", i, key, err)
		}
		compiled.include = key == keyInclude
		f = append(f, compiled)
	}
	return f, nil
}

// early gives the rules at the beginning that the programs can go by and have room for, as long as one of
// them excludes anything. What these exclude costs next to nothing.
func (f filter) early() (rules []probe.FilterRule) {
	worth := 0
	for _, r := range f[:min(len(f), probe.MaxFilterRules)] {
		if r.early == nil {
			break
		}
		early := *r.early
		early.Exclude = !r.include
		rules = append(rules, early)
		if early.Exclude {
			worth = len(rules)
		}
	}
	return rules[:worth]
}

// wants reports whether the connection of e is to be told of.
func (f filter) wants(e *event.Event) bool {
	for _, r := range f {
		if r.matches(e) {
			return r.include
		}
	}
	return true
}

func (r rule) matches(e *event.Event) bool {
	return !slices.ContainsFunc(r.criteria, func(c criterion) bool { return !c(e) })
}

// compile gives a rule of the criteria that are there, those that cost the least first.
func (m *FilterMatch) compile(processes *resources) (r rule, err error) {
	netns, err := each(m.NetNS, NetNS.inode)
	if err != nil {
		return r, fmt.Errorf("netns: %w", err)
	}
	cidr, err := each(m.CIDR, netip.ParsePrefix)
	if err != nil {
		return r, fmt.Errorf("cidr: %w", err)
	}
	roles, err := each(m.Role, roleOf)
	if err != nil {
		return r, fmt.Errorf("role: %w", err)
	}
	if len(m.Executable)+len(m.Container)+len(m.Service) == 0 {
		r.early = newEarly(netns, roles, m.Port, cidr)
	}
	all := []criterion{
		anyOf(netns, func(e *event.Event, inode uint32) bool { return e.NetNS == inode }),
		anyOf(roles, func(e *event.Event, role event.Role) bool { return e.Role == role }),
		anyOf(m.Port, isServed),
		anyOf(cidr, func(e *event.Event, p netip.Prefix) bool { return p.Contains(e.Peer.Addr()) }),
		processes.named(m.Executable, executableTexts),
		processes.named(m.Container, containerTexts),
		processes.named(m.Service, func(o owner.ID, p *owner.Process) []string {
			name, _ := processes.service(o, p)
			return []string{name}
		}),
	}
	r.criteria = slices.DeleteFunc(all, func(c criterion) bool { return c == nil })
	return r, nil
}

// newEarly gives nil where the programs have no room.
func newEarly(netns []uint32, roles []event.Role, ports Ports, cidr []netip.Prefix) *probe.FilterRule {
	early := &probe.FilterRule{NetNS: netns, Roles: roles, Peers: cidr}
	for _, port := range ports {
		early.Ports = append(early.Ports, uint16(port))
	}
	if !early.Fits() {
		return nil
	}
	return early
}

// each applies f to all, or fails as the first does.
func each[T, U any](all []T, f func(T) (U, error)) (out []U, err error) {
	for _, v := range all {
		u, err := f(v)
		if err != nil {
			return nil, err
		}
		out = append(out, u)
	}
	return out, nil
}

// anyOf holds where one of the values matches; without any there is no criterion.
func anyOf[T any](values []T, matches func(*event.Event, T) bool) criterion {
	if len(values) == 0 {
		return nil
	}
	return func(e *event.Event) bool {
		return slices.ContainsFunc(values, func(v T) bool { return matches(e, v) })
	}
}

// isServed reports whether that is the server's port; where it is not known which end is the server,
// whether it is the port of either.
func isServed(e *event.Event, port int) bool {
	return e.Role != event.Server && int(e.Peer.Port()) == port || e.Role != event.Client && int(e.Local.Port()) == port
}

// named holds where one of the globs matches one of the texts that there are of the connection's owner.
func (rs *resources) named(globs []string, texts func(owner.ID, *owner.Process) []string) criterion {
	var conditions []condition
	for _, glob := range globs {
		conditions = append(conditions, condition{owner.Glob(glob), texts})
	}
	return anyOf(conditions, func(e *event.Event, c condition) bool {
		o := ownerOf(e)
		return o != (owner.ID{}) && c.holds(o, rs.find(o))
	})
}
