package event

import (
	"encoding/binary"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// processRecord gives the octets of a good record, changed by f.
func processRecord(f func(b []byte)) []byte {
	b := make([]byte, ProcessSize)
	n := binary.NativeEndian
	n.PutUint64(b[offStarted:], 1000)
	n.PutUint32(b[offProcessPID:], 42)
	n.PutUint32(b[offParent:], 1)
	n.PutUint32(b[offProcessUID:], 33)
	copy(b[offName:], "nginx")
	putPath(b[offExecutable:], "nginx\x00sbin\x00usr\x00", true)
	putPath(b[offUnified:], "nginx.service\x00system.slice\x00", true)
	if f != nil {
		f(b)
	}
	return b
}

func putPath(b []byte, names string, whole bool) {
	binary.NativeEndian.PutUint16(b[offLen:], uint16(len(names)))
	b[offWhole] = 0
	if whole {
		b[offWhole] = 1
	}
	copy(b[offParts:], names)
}

func TestDecodeProcess(t *testing.T) {
	long := strings.Repeat("x", pathRoom-1)
	nginx := Process{
		Started: 1000, PID: 42, Parent: 1, UID: 33, Comm: Comm{'n', 'g', 'i', 'n', 'x'},
		Executable: "/usr/sbin/nginx", Unified: "/system.slice/nginx.service",
	}
	for _, tt := range []struct {
		name   string
		change func(b []byte)
		want   func(p *Process)
	}{
		{"whole", nil, func(*Process) {}},
		{"no executable", func(b []byte) { putPath(b[offExecutable:], "", false) }, func(p *Process) { p.Executable = "" }},
		{"cut executable", func(b []byte) { putPath(b[offExecutable:], "nginx\x00", false) }, func(p *Process) { p.Executable = "" }},
		{"cut group", func(b []byte) { putPath(b[offLegacy:], long+"\x00", false) }, func(p *Process) { p.Legacy = "/" + long }},
		{"any octets", func(b []byte) { putPath(b[offExecutable:], "\xff\n\x00", true) }, func(p *Process) { p.Executable = "/\xff\n" }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := DecodeProcess(processRecord(tt.change))
			if err != nil {
				t.Fatal(err)
			}
			want := nginx
			tt.want(&want)
			if d := cmp.Diff(want, got); d != "" {
				t.Errorf("decoded process (-want +got):\n%s", d)
			}
		})
	}
}

func TestDecodeProcessMalformed(t *testing.T) {
	for name, b := range map[string][]byte{
		"empty":      {},
		"an event":   record(nil),
		"too long":   append(processRecord(nil), 0),
		"path":       processRecord(func(b []byte) { binary.NativeEndian.PutUint16(b[offUnified:], pathRoom+1) }),
		"no end":     processRecord(func(b []byte) { putPath(b[offLegacy:], "abc", true) }),
		"executable": processRecord(func(b []byte) { binary.NativeEndian.PutUint16(b[offExecutable:], 1<<16-1) }),
	} {
		if p, err := DecodeProcess(b); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: decoded %+v, error %v, want %v", name, p, err, ErrMalformed)
		}
	}
}

// FuzzDecodeProcess: an error or a whole process, never a panic.
func FuzzDecodeProcess(f *testing.F) {
	f.Add(processRecord(nil))
	f.Add(processRecord(func(b []byte) { putPath(b[offLegacy:], "\x00\x00/\x00", false) }))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := DecodeProcess(b)
		if err != nil {
			if !errors.Is(err, ErrMalformed) {
				t.Fatalf("error %v is not ErrMalformed", err)
			}
			return
		}
		for _, path := range []string{p.Executable, p.Unified, p.Legacy} {
			if path != "" && path[0] != '/' || len(path) > pathRoom {
				t.Fatalf("path %q of %x", path, b)
			}
		}
	})
}
