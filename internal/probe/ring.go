package probe

import (
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// From include/uapi/linux/bpf.h and kernel/bpf/ringbuf.c: each record has a header of two words,
// the first its length and two flags, and is padded to eight octets.
const (
	headerSize = 8
	busyBit    = 1 << 31
	discardBit = 1 << 30
)

// A ring is a BPF ring buffer of one CPU. The reader of cilium/ebpf does not serve here: it spins
// on a record that is reserved but not yet submitted, and so would spin for as long as that CPU
// sleeps, away from all other rings.
type ring struct {
	m        *ebpf.Map
	consumer []byte // page with the consumer's position, ours to write
	producer []byte // page with the producer's position, then the data, twice in a row
	data     []byte
	mask     uint64
}

func newRing(size int) (*ring, error) {
	m, err := ebpf.NewMap(&ebpf.MapSpec{Name: "ring", Type: ebpf.RingBuf, MaxEntries: uint32(size)})
	if err != nil {
		return nil, fmt.Errorf("creating a ring buffer of %d octets: %w", size, err)
	}
	r := &ring{m: m, mask: uint64(size) - 1}
	page := os.Getpagesize()
	if r.consumer, err = unix.Mmap(m.FD(), 0, page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != nil {
		return nil, errors.Join(fmt.Errorf("mapping the consumer page: %w", err), r.close())
	}
	if r.producer, err = unix.Mmap(m.FD(), int64(page), page+2*size, unix.PROT_READ, unix.MAP_SHARED); err != nil {
		return nil, errors.Join(fmt.Errorf("mapping %d octets of data: %w", 2*size, err), r.close())
	}
	r.data = r.producer[page:]
	return r, nil
}

func (r *ring) close() error {
	var errs []error
	for _, b := range [][]byte{r.consumer, r.producer} {
		if b != nil {
			errs = append(errs, unix.Munmap(b))
		}
	}
	r.consumer, r.producer, r.data = nil, nil, nil
	return errors.Join(append(errs, r.m.Close())...)
}

func position(page []byte) *uint64 { return (*uint64)(unsafe.Pointer(&page[0])) }

// filled is the number of octets in use, by records submitted or reserved.
func (r *ring) filled() int {
	consumer := atomic.LoadUint64(position(r.consumer))
	return int(atomic.LoadUint64(position(r.producer)) - consumer)
}

// drain gives yield the samples up to the first that is not submitted yet, and says how many. A
// position or a header that cannot be true ends it with whole false: what the ring holds is then
// given up, for where the next record begins is not known.
func (r *ring) drain(yield func(sample []byte)) (n uint64, whole bool) {
	at := atomic.LoadUint64(position(r.consumer))
	end := atomic.LoadUint64(position(r.producer))
	if end-at > r.mask+1 {
		atomic.StoreUint64(position(r.consumer), end)
		return 0, false
	}
	for at != end {
		// Pairs with the kernel's xchg: what is submitted is also filled.
		header := atomic.LoadUint32((*uint32)(unsafe.Pointer(&r.data[at&r.mask])))
		if header&busyBit != 0 {
			break
		}
		size := uint64(header &^ discardBit)
		if next := headerSize + (size+7)&^7; next > end-at {
			atomic.StoreUint64(position(r.consumer), end)
			return n, false
		}
		start := at&r.mask + headerSize
		if header&discardBit == 0 {
			yield(r.data[start : start+size : start+size])
			n++
		}
		at += headerSize + (size+7)&^7
		atomic.StoreUint64(position(r.consumer), at)
	}
	return n, true
}
