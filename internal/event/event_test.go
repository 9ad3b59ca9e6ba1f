package event

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// record gives the octets of a good record, changed by f.
func record(f func(b []byte)) []byte {
	b := make([]byte, Size)
	n := binary.NativeEndian
	n.PutUint64(b[offTime:], 1000)
	n.PutUint64(b[offSeq:], 7)
	n.PutUint64(b[offCookie:], 42)
	n.PutUint32(b[offOrdinal:], 2)
	n.PutUint32(b[offPID:], 1234)
	n.PutUint16(b[offFamily:], afINET)
	copy(b[offLocalAddr:], []byte{10, 0, 0, 1})
	copy(b[offPeerAddr:], []byte{10, 1, 0, 1})
	n.PutUint16(b[offLocalPort:], 4242)
	n.PutUint16(b[offPeerPort:], 5432)
	copy(b[offComm:], "curl")
	b[offKind] = byte(Closed)
	b[offRole] = byte(Client)
	b[offCloser] = byte(CloserLocal)
	b[offOldState] = byte(FinWait2)
	b[offOwnerSource] = byte(OwnerConnect)
	n.PutUint16(b[offFlags:], uint16(HasISN|Dead))
	n.PutUint16(b[offStates:], 1<<SynSent|1<<Established)
	if f != nil {
		f(b)
	}
	return b
}

func TestDecode(t *testing.T) {
	var got Event
	if err := Decode(record(nil), 3, &got); err != nil {
		t.Fatal(err)
	}
	want := Event{
		Time: 1000, Seq: 7, Cookie: 42, Ordinal: 2, PID: 1234, CPU: 3,
		Local: netip.MustParseAddrPort("10.0.0.1:4242"), Peer: netip.MustParseAddrPort("10.1.0.1:5432"),
		Comm: Comm{'c', 'u', 'r', 'l'}, Kind: Closed, Role: Client, Closer: CloserLocal,
		OldState: FinWait2, OwnerSource: OwnerConnect, Flags: HasISN | Dead, States: 1<<SynSent | 1<<Established,
	}
	if d := cmp.Diff(want, got, cmpopts.EquateComparable(netip.AddrPort{})); d != "" {
		t.Errorf("decoded event (-want +got):\n%s", d)
	}
	if !got.Been(SynSent) || got.Been(CloseWait) {
		t.Errorf("states %b: want SYN_SENT and not CLOSE_WAIT", got.States)
	}
}

func TestDecodeIPv6(t *testing.T) {
	var got Event
	err := Decode(record(func(b []byte) {
		binary.NativeEndian.PutUint16(b[offFamily:], afINET6)
		copy(b[offPeerAddr:], netip.MustParseAddr("2001:db8::1").AsSlice())
	}), 0, &got)
	if err != nil {
		t.Fatal(err)
	}
	if want := netip.MustParseAddrPort("[2001:db8::1]:5432"); got.Peer != want {
		t.Errorf("peer %v, want %v", got.Peer, want)
	}
}

func TestDecodeMalformed(t *testing.T) {
	set := func(off int, v byte) []byte { return record(func(b []byte) { b[off] = v }) }
	tests := []struct {
		name string
		b    []byte
		want string
	}{
		{"empty", nil, "malformed record: 0 octets, want 184"},
		{"short", make([]byte, Size-1), "malformed record: 183 octets, want 184"},
		{"long", make([]byte, Size+8), "malformed record: 192 octets, want 184"},
		{"zeroes", make([]byte, Size), "malformed record: kind 0, want 1 to 5"},
		{"kind", set(offKind, 6), "malformed record: kind 6, want 1 to 5"},
		{"octets", set(offBytesReceived+7, 0xff), "malformed record: 0 octets sent, 18374686479671623680 received, want at most 1152921504606846976"},
		{"role", set(offRole, 3), "malformed record: role 3, want at most 2"},
		{"closer", set(offCloser, 4), "malformed record: closer 4, want at most 3"},
		{"state", set(offOldState, 12), "malformed record: TCP state 12, want 1 to 11"},
		{"no state", set(offOldState, 0), "malformed record: TCP state 0, want 1 to 11"},
		{"owner", set(offOwnerSource, 9), "malformed record: owner source 9, want at most 5"},
		{"family", set(offFamily, 1), "malformed record: address family 1, want 2 or 10"},
		{"ordinal", set(offOrdinal, 0), "malformed record: ordinal 0, want at least 1"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var e Event
			err := Decode(tt.b, 0, &e)
			if !errors.Is(err, ErrMalformed) || err.Error() != tt.want {
				t.Errorf("got %v, want %s", err, tt.want)
			}
		})
	}
}

func TestDecodeAllocatesNothing(t *testing.T) {
	b := record(nil)
	var e Event
	if n := testing.AllocsPerRun(100, func() { _ = Decode(b, 0, &e) }); n != 0 {
		t.Errorf("%v allocations, want 0", n)
	}
}

func TestPrintable(t *testing.T) {
	tests := []struct{ name, in, want string }{
		{"plain", "nginx: worker", "nginx: worker"},
		{"letters", "größe", "größe"},
		{"invalid", "a\xffb", "a\ufffdb"},
		{"cut rune", "a\xc3", "a\ufffd"},
		{"newline", "a\nb", "a\ufffdb"},
		{"escape", "\x1b[31m", "\ufffd[31m"},
		{"override", "a\u202eb", "a\ufffdb"},
		{"separator", "a\u2028b", "a\ufffdb"},
		{"C1 control", "a\u0085b", "a\ufffdb"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := Printable(tt.in); got != tt.want {
				t.Errorf("Printable(%q) = %q, want %q", tt.in, got, tt.want)
			}
		})
	}
}

func TestCommStopsAtNUL(t *testing.T) {
	if got := (Comm{'a', 0, 'b'}).String(); got != "a" {
		t.Errorf("got %q, want %q", got, "a")
	}
	if got := Comm([]byte("0123456789abcdef")).String(); got != "0123456789abcdef" {
		t.Errorf("unterminated name: got %q", got)
	}
}

// FuzzDecode: an error or a whole event, never a panic, and names that protobuf takes.
func FuzzDecode(f *testing.F) {
	f.Add(record(nil))
	f.Add(record(func(b []byte) { binary.NativeEndian.PutUint16(b[offFamily:], afINET6) }))
	f.Add(record(func(b []byte) { copy(b[offComm:], "\xff\xfe\n\x1b") }))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		var e Event
		if err := Decode(b, 1, &e); err != nil {
			if !errors.Is(err, ErrMalformed) {
				t.Fatalf("error %v is not ErrMalformed", err)
			}
			return
		}
		if len(b) != Size || !e.Local.IsValid() || !e.Peer.IsValid() || e.Kind < Opened || e.Kind > Adopted {
			t.Fatalf("accepted %x as %+v", b, e)
		}
		name := e.Comm.String()
		if !utf8.ValidString(name) {
			t.Fatalf("name %q is no UTF-8", name)
		}
		for _, r := range name {
			if unicode.IsControl(r) {
				t.Fatalf("name %q holds a control character", name)
			}
		}
	})
}
