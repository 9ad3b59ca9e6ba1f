package probe

import (
	"encoding/binary"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// fakeRing is a ring in ordinary memory, with its data mapped twice like the kernel's.
type fakeRing struct {
	*ring
	end uint64
}

func newFakeRing() *fakeRing {
	const size = 4096
	page := os.Getpagesize()
	r := &ring{consumer: make([]byte, page), producer: make([]byte, page+2*size), mask: size - 1}
	r.data = r.producer[page:]
	return &fakeRing{ring: r}
}

func (f *fakeRing) write(at uint64, b []byte) {
	size := f.mask + 1
	for i, v := range b {
		o := (at + uint64(i)) & f.mask
		f.data[o], f.data[o+size] = v, v
	}
}

func (f *fakeRing) put(flags uint32, sample string) {
	f.write(f.end, binary.NativeEndian.AppendUint64(nil, uint64(flags)|uint64(len(sample))))
	f.write(f.end+headerSize, []byte(sample))
	f.end += headerSize + uint64(len(sample)+7)&^7
	binary.NativeEndian.PutUint64(f.producer, f.end)
}

func drained(r *ring) (samples []string, whole bool) {
	_, whole = r.drain(func(b []byte) { samples = append(samples, string(b)) })
	return samples, whole
}

func TestRingDrain(t *testing.T) {
	r := newFakeRing()
	r.put(0, "first")
	r.put(discardBit, "discarded")
	r.put(0, "")
	r.put(0, "exactly8")
	busy := r.end
	r.put(busyBit, "being filled")
	r.put(0, "behind it")

	got, whole := drained(r.ring)
	if d := cmp.Diff([]string{"first", "", "exactly8"}, got); d != "" || !whole {
		t.Fatalf("whole %v, samples:\n%s", whole, d)
	}
	if got, _ := drained(r.ring); got != nil {
		t.Fatalf("drained %q again", got)
	}
	r.write(busy, binary.NativeEndian.AppendUint32(nil, uint32(len("being filled"))))
	got, _ = drained(r.ring)
	if d := cmp.Diff([]string{"being filled", "behind it"}, got); d != "" {
		t.Error(d)
	}
	if r.filled() != 0 {
		t.Errorf("%d octets left", r.filled())
	}
}

func TestRingWrapsAround(t *testing.T) {
	r := newFakeRing()
	for i := range 1000 {
		sample := string(make([]byte, i%200))
		r.put(0, sample)
		if got, whole := drained(r.ring); len(got) != 1 || got[0] != sample || !whole {
			t.Fatalf("record %d: whole %v, got %d samples", i, whole, len(got))
		}
	}
}

func TestRingGivesUpTheImpossible(t *testing.T) {
	for name, spoil := range map[string]func(*fakeRing){
		"length":   func(r *fakeRing) { r.put(4000, "long") },
		"position": func(r *fakeRing) { binary.NativeEndian.PutUint64(r.producer, 1<<40) },
	} {
		t.Run(name, func(t *testing.T) {
			r := newFakeRing()
			r.put(0, "good")
			spoil(r)
			if _, whole := drained(r.ring); whole {
				t.Error("whole, want the ring given up")
			}
			if r.filled() != 0 {
				t.Errorf("%d octets left, want all given up", r.filled())
			}
		})
	}
}

// FuzzRing: whatever the pages hold, drain ends, and hands out no more than is there.
func FuzzRing(f *testing.F) {
	f.Add(uint64(0), uint64(64), []byte{8, 0, 0, 0})
	f.Add(uint64(4000), uint64(9000), []byte{0xff, 0xff, 0xff, 0x3f})
	f.Fuzz(func(t *testing.T, consumer, producer uint64, data []byte) {
		r := newFakeRing()
		r.write(0, data[:min(len(data), 4096)])
		binary.NativeEndian.PutUint64(r.consumer, consumer&^7)
		binary.NativeEndian.PutUint64(r.producer, producer&^7)
		octets := 0
		r.drain(func(b []byte) { octets += len(b) })
		if octets > 4096 {
			t.Errorf("%d octets out of a ring of 4096", octets)
		}
	})
}
