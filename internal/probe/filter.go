package probe

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/connspan/connspan/internal/event"
)

// The programs have room for so many rules, and in each for so many values of a kind.
const (
	MaxFilterRules  = 8
	maxFilterValues = 8
)

// A FilterRule excludes connections, of which there are no events then, or has them told whatever the rules
// behind it say: the first that matches decides. It matches a connection of which each property that it has
// values of is one of these.
type FilterRule struct {
	Exclude bool
	NetNS   []uint32 // inode numbers
	Roles   []event.Role
	Ports   []uint16       // the server's; where the role is not known, of either end
	Peers   []netip.Prefix // of addresses
}

// Fits reports whether the programs have room for the rule.
func (r *FilterRule) Fits() bool {
	return len(r.NetNS) <= maxFilterValues && len(r.Ports) <= maxFilterValues && len(r.Peers) <= maxFilterValues
}

// filterTable is what the programs read.
func filterTable(rules []FilterRule) (table [MaxFilterRules]tracerFilterRule) {
	for i, r := range rules {
		t := &table[i]
		if r.Exclude {
			t.Exclude = 1
		}
		t.NetnsCount = uint32(copy(t.Netns[:], r.NetNS))
		t.PortCount, t.PrefixCount = uint32(len(r.Ports)), uint32(len(r.Peers))
		for _, role := range r.Roles {
			t.Roles |= 1 << role
		}
		for j, port := range r.Ports {
			t.Ports[j] = uint32(port)
		}
		for j, p := range r.Peers {
			in := &t.Prefixes[j]
			in.Addr, in.Mask = words(p.Masked().Addr()), words(netip.PrefixFrom(ones(p.Addr()), p.Bits()).Masked().Addr())
			in.Family = unix.AF_INET6
			if p.Addr().Is4() {
				in.Family = unix.AF_INET
			}
		}
	}
	return table
}

// ones is the address of the same kind that has no 0.
func ones(like netip.Addr) netip.Addr {
	b := like.AsSlice()
	for i := range b {
		b[i] = 0xff
	}
	all, _ := netip.AddrFromSlice(b)
	return all
}

// words has the octets where the programs have them: those of IPv4 at the beginning.
func words(a netip.Addr) (out [4]uint32) {
	var b [16]byte
	copy(b[:], a.AsSlice())
	for i := range out {
		out[i] = binary.NativeEndian.Uint32(b[4*i:])
	}
	return out
}
