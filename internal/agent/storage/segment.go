package storage

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"os"
	"slices"

	"github.com/klauspost/compress/s2"
	xstorage "go.opentelemetry.io/collector/extension/xextension/storage"
	"golang.org/x/sys/unix"
)

const (
	// magic begins each segment. Its number changes when the format does.
	magic = "connspan queue 2\n"
	// headerSize is of a record: the octets of its body, and their checksum.
	headerSize = 8
	// lengthSize is of a length.
	lengthSize = 4
	// maxRecord bounds what a damaged header can make replay allocate.
	maxRecord = 64 << 20
	// maxValues bounds the values of a record before they are packed, so that it is below maxRecord.
	maxValues = maxRecord / 2
)

var errChecksum = errors.New("wrong checksum")

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// segment is a file of the log. Behind magic it has records: an operation is its type, and key and, of
// a Set, value, packed by S2, each behind its length. Batches say the same again and again, and what S2
// makes of them is a tenth, at less than what it takes to encode them; zstd makes it a twentieth, and
// takes five times as long.
type segment struct {
	number uint32
	file   *os.File
	size   int64
	live   int64 // cost of the values that the index has here
}

func createSegment(number uint32, path string) (*segment, error) {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	seg := &segment{number: number, file: file}
	if err := seg.append([]byte(magic)); err != nil {
		return nil, errors.Join(err, file.Close(), os.Remove(path))
	}
	return seg, nil
}

func openSegment(number uint32, path string) (*segment, error) {
	file, err := os.OpenFile(path, os.O_RDWR|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	info, err := file.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = errors.New("not a file")
	}
	if err == nil && info.Size() > math.MaxUint32 {
		err = fmt.Errorf("%d octets, more than a queue writes", info.Size())
	}
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return &segment{number: number, file: file, size: info.Size()}, nil
}

// append writes b, or nothing.
func (s *segment) append(b []byte) error {
	if _, err := s.file.WriteAt(b, s.size); err != nil {
		return errors.Join(err, s.file.Truncate(s.size))
	}
	s.size += int64(len(b))
	return nil
}

// replay calls apply for each operation, and returns how far it came; the error says why not further.
func (s *segment) replay(apply func(place, *xstorage.Operation)) (good int64, err error) {
	in := bufio.NewReaderSize(io.NewSectionReader(s.file, 0, s.size), 64<<10)
	begin := make([]byte, len(magic))
	if _, err := io.ReadFull(in, begin); err != nil || string(begin) != magic {
		return 0, errors.New("not a queue of connspan")
	}
	good = int64(len(magic))
	var body []byte
	for good < s.size {
		body, err = readRecord(in, body, s.size-good-headerSize)
		if err != nil {
			return good, err
		}
		offset := good + headerSize
		err = decode(body, func(op *xstorage.Operation, at int) { apply(s.place(offset+int64(at), op), op) })
		if err != nil {
			return good, err
		}
		good = offset + int64(len(body))
	}
	return good, nil
}

// readRecord returns the body of the next record, in the memory of body where that suffices.
func readRecord(in io.Reader, body []byte, left int64) ([]byte, error) {
	var header [headerSize]byte
	if _, err := io.ReadFull(in, header[:]); err != nil {
		return body, fmt.Errorf("reading a record: %w", err)
	}
	length := int64(binary.LittleEndian.Uint32(header[:]))
	if length > left || length > maxRecord {
		return body, fmt.Errorf("a record of %d octets where %d are left", length, left)
	}
	if int64(cap(body)) < length {
		body = make([]byte, length)
	}
	body = body[:length]
	if _, err := io.ReadFull(in, body); err != nil {
		return body, fmt.Errorf("reading a record: %w", err)
	}
	if sum := binary.LittleEndian.Uint32(header[4:]); crc32.Checksum(body, castagnoli) != sum {
		return body, errChecksum
	}
	return body, nil
}

// saveTail copies what is behind at to a file.
func (s *segment) saveTail(at int64, path string) error {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(file, io.NewSectionReader(s.file, at, s.size-at))
	return errors.Join(err, file.Close())
}

func (s *segment) place(offset int64, op *xstorage.Operation) place {
	return place{
		segment: s.number, offset: uint32(offset), length: uint32(len(op.Value)),
		sum: crc32.Checksum(op.Value, castagnoli),
	}
}

// read gives the value at p.
func (s *segment) read(p place) ([]byte, error) {
	buffer := buffers.Get().(*[]byte)
	defer buffers.Put(buffer)
	*buffer = slices.Grow((*buffer)[:0], int(p.length))
	packed := (*buffer)[:p.length]
	if _, err := s.file.ReadAt(packed, int64(p.offset)); err != nil {
		return nil, err
	}
	if crc32.Checksum(packed, castagnoli) != p.sum {
		return nil, errChecksum
	}
	return unpack(packed)
}

func unpack(packed []byte) ([]byte, error) {
	if n, err := s2.DecodedLen(packed); err != nil || n > maxValues {
		return nil, errMalformed
	}
	return s2.Decode(nil, packed)
}

// valueSize is the octets of all values.
func valueSize(ops []*xstorage.Operation) (size int) {
	for _, op := range ops {
		size += len(op.Value)
	}
	return size
}

// encode makes b a record of ops, Set and Delete alone.
func encode(b []byte, ops []*xstorage.Operation) []byte {
	b = append(b[:0], make([]byte, headerSize)...)
	for _, op := range ops {
		b = append(b, byte(op.Type))
		b = append(binary.LittleEndian.AppendUint32(b, uint32(len(op.Key))), op.Key...)
		if op.Type == xstorage.Set {
			b = appendPacked(b, op.Value)
		}
	}
	body := b[headerSize:]
	binary.LittleEndian.PutUint32(b, uint32(len(body)))
	binary.LittleEndian.PutUint32(b[4:], crc32.Checksum(body, castagnoli))
	return b
}

// appendPacked appends value behind its length, packed.
func appendPacked(b, value []byte) []byte {
	room := s2.MaxEncodedLen(len(value))
	at := len(b) + lengthSize
	b = slices.Grow(b, lengthSize+room)
	packed := s2.Encode(b[at:at+room], value)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(packed)))
	return b[:at+len(packed)]
}

var errMalformed = errors.New("malformed record")

// decode calls yield for each operation in body, with its value as it is there, packed, and the offset of
// that. The value is valid during the call alone.
func decode(body []byte, yield func(op *xstorage.Operation, offset int)) error {
	rest := body
	field := func() ([]byte, bool) {
		if len(rest) < lengthSize {
			return nil, false
		}
		length := int64(binary.LittleEndian.Uint32(rest))
		rest = rest[lengthSize:]
		if length > int64(len(rest)) {
			return nil, false
		}
		value := rest[:length]
		rest = rest[length:]
		return value, true
	}
	for len(rest) > 0 {
		op := &xstorage.Operation{Type: xstorage.OpType(rest[0])}
		rest = rest[1:]
		key, ok := field()
		if ok && op.Type == xstorage.Set {
			op.Value, ok = field()
		}
		if !ok || op.Type != xstorage.Set && op.Type != xstorage.Delete {
			return errMalformed
		}
		op.Key = string(key)
		yield(op, len(body)-len(rest)-len(op.Value))
	}
	return nil
}
