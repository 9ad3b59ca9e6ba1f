package storage

import (
	"iter"
	"strconv"
)

// place is where a value is. There may be a million of them, so it is small.
type place struct {
	segment uint32 // number
	offset  uint32
	length  uint32
	sum     uint32
}

// cost is what the value takes in its segment, about.
func (p place) cost() int64 { return int64(p.length) + headerSize }

// index tells where the value of each key is. Those of the batches in a queue are numbers.
type index struct {
	numbered map[uint64]place
	named    map[string]place
}

func newIndex() index {
	return index{numbered: make(map[uint64]place), named: make(map[string]place)}
}

// number is the key as a number, if it is one as strconv writes it.
func number(key string) (uint64, bool) {
	n, err := strconv.ParseUint(key, 10, 64)
	return n, err == nil && key == strconv.FormatUint(n, 10)
}

func (x *index) get(key string) (p place, ok bool) {
	if n, isNumber := number(key); isNumber {
		p, ok = x.numbered[n]
		return p, ok
	}
	p, ok = x.named[key]
	return p, ok
}

func (x *index) put(key string, p place) {
	if n, isNumber := number(key); isNumber {
		x.numbered[n] = p
		return
	}
	x.named[key] = p
}

func (x *index) remove(key string) {
	if n, isNumber := number(key); isNumber {
		delete(x.numbered, n)
		return
	}
	delete(x.named, key)
}

func (x *index) all() iter.Seq2[string, place] {
	return func(yield func(string, place) bool) {
		for n, p := range x.numbered {
			if !yield(strconv.FormatUint(n, 10), p) {
				return
			}
		}
		for key, p := range x.named {
			if !yield(key, p) {
				return
			}
		}
	}
}
