package storage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/collector/component"
	xstorage "go.opentelemetry.io/collector/extension/xextension/storage"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// opened is a queue, with what belongs to it.
type opened struct {
	*queue
	logs *observer.ObservedLogs
}

// open is what a start of the program does.
func open(t *testing.T, directory string, maxSize int64) *opened {
	t.Helper()
	core, logs := observer.New(zap.InfoLevel)
	s := New(directory, maxSize, zap.New(core))
	if err := s.Start(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	client, err := s.GetClient(t.Context(), component.KindExporter, component.MustNewIDWithName("otlp", "a/b"), "logs")
	if err != nil {
		t.Fatal(err)
	}
	o := &opened{client.(*queue), logs}
	t.Cleanup(o.close)
	return o
}

func (o *opened) close() {
	_ = o.Close(context.Background())
	_ = o.storage.Shutdown(context.Background())
}

// kill leaves the files as the end of a process does, and the locks.
func (o *opened) kill() { o.close() }

// put, take and done are the batches of a persistent queue.
func (o *opened) put(t *testing.T, n int, value []byte) error {
	return o.Batch(t.Context(), xstorage.SetOperation("meta", fmt.Appendf(nil, "put %d", n)), xstorage.SetOperation(fmt.Sprint(n), value))
}

func (o *opened) take(t *testing.T, n int) ([]byte, error) {
	op := xstorage.GetOperation(fmt.Sprint(n))
	err := o.Batch(t.Context(), xstorage.SetOperation("meta", fmt.Appendf(nil, "take %d", n)), op)
	return op.Value, err
}

func (o *opened) done(t *testing.T, n int) error {
	return o.Batch(t.Context(), xstorage.SetOperation("meta", fmt.Appendf(nil, "done %d", n)), xstorage.DeleteOperation(fmt.Sprint(n)))
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func value(n, size int) []byte {
	b := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{byte(n), byte(n >> 8)}).Read(b)
	return b
}

// wantValues checks which of the keys up to n are there, with the value of their number.
func wantValues(t *testing.T, o *opened, n, size int, there func(int) bool) {
	t.Helper()
	for i := range n {
		got, err := o.Get(t.Context(), fmt.Sprint(i))
		must(t, err)
		var want []byte
		if there(i) {
			want = value(i, size)
		}
		if !bytes.Equal(got, want) {
			t.Fatalf("key %d: got %d octets, want %d", i, len(got), len(want))
		}
	}
}

// wantRefused has the queue come to what it was told that there is no room for: it is not missing.
func wantRefused(t *testing.T, o *opened, n int) {
	t.Helper()
	if _, err := o.take(t, n); !errors.Is(err, errMissing) || o.storage.Missing() != 0 {
		t.Errorf("key %d: got error %v, counted %d as missing", n, err, o.storage.Missing())
	}
}

func segments(t *testing.T, directory string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(directory, "*", "*"+suffix))
	must(t, err)
	return files
}

func TestOutlivesTheProcess(t *testing.T) {
	const n, size = 300, 100_000
	directory := filepath.Join(t.TempDir(), "a", "queues")
	o := open(t, directory, 1<<30)
	for i := range n {
		must(t, o.put(t, i, value(i, size)))
	}
	for i := range 100 {
		_, err := o.take(t, i)
		must(t, err)
		must(t, o.done(t, i))
	}
	o.kill()

	o = open(t, directory, 1<<30)
	wantValues(t, o, n, size, func(i int) bool { return i >= 100 })
	if meta, err := o.Get(t.Context(), "meta"); err != nil || string(meta) != "done 99" {
		t.Errorf("got metadata %q, error %v", meta, err)
	}
	for path, want := range map[string]os.FileMode{directory: 0o700, o.directory: 0o700, segments(t, directory)[0]: 0o600} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: got mode %v, error %v, want %v", path, info.Mode().Perm(), err, want)
		}
	}
}

// What is in the queue takes room, what was in it does not.
func TestShrinks(t *testing.T) {
	const size = 100_000
	directory := t.TempDir()
	o := open(t, directory, 1<<30)
	for i := range 1000 {
		must(t, o.put(t, i, value(i, size)))
	}
	if got := o.storage.Size(); got < 1000*size || got > 1000*size*101/100 {
		t.Errorf("full: %d octets, want those of the values", got)
	}
	for i := range 1000 {
		must(t, o.done(t, i))
	}
	var onDisk int64
	for _, file := range segments(t, directory) {
		info, err := os.Stat(file)
		must(t, err)
		onDisk += info.Size()
	}
	if got := o.storage.Size(); got != onDisk || got > 2*maxSegment {
		t.Errorf("empty: %d octets, %d on the disk, want at most two segments", got, onDisk)
	}
}

// alike is a batch as exporters put them in, items that have most in common.
func alike(items int) []byte {
	ld := plog.NewLogs()
	records := ld.ResourceLogs().AppendEmpty().ScopeLogs().AppendEmpty().LogRecords()
	for i := range uint64(items) {
		lr := records.AppendEmpty()
		lr.SetEventName("tcp.connection.close")
		lr.SetTimestamp(pcommon.Timestamp(1_800_000_000_000_000_000 + i*1_234_567))
		lr.SetTraceID(pcommon.TraceID(value(int(i), 16)))
		lr.Body().SetStr(fmt.Sprintf("tcp.connection.close curl[%d] 10.0.0.1:%d -> 10.1.0.1:5432 1.5s sent=120 received=5300 fin local", 1000+i, 32768+i))
		for name, to := range map[string]string{
			"network.local.address": "10.0.0.1", "network.peer.address": "10.1.0.1", "network.transport": "tcp",
			"network.type": "ipv4", "process.executable.name": "curl", "process.executable.path": "/usr/bin/curl",
			"network.tcp.handshake.role": "client", "tcp.connection.close.reason": "fin",
		} {
			lr.Attributes().PutStr(name, to)
		}
		for name, to := range map[string]int64{
			"network.local.port": 32768 + int64(i), "network.peer.port": 5432, "process.pid": 1000 + int64(i),
			"tcp.connection.bytes_sent": 120, "tcp.connection.bytes_received": 5300,
		} {
			lr.Attributes().PutInt(name, to)
		}
		lr.Attributes().PutDouble("tcp.connection.duration", 1.5+float64(i)/1e6)
	}
	b, _ := new(plog.ProtoMarshaler).MarshalLogs(ld) // there is no way for it to fail
	return b
}

// A queue takes far less room than what is in it.
func TestPacked(t *testing.T) {
	o := open(t, t.TempDir(), 1<<30)
	batch := alike(1000)
	must(t, o.put(t, 0, batch))
	if size := o.storage.Size(); size > int64(len(batch))/5 {
		t.Errorf("%d octets take %d, want a fifth or less", len(batch), size)
	}
	if got, err := o.Get(t.Context(), "0"); err != nil || !bytes.Equal(got, batch) {
		t.Errorf("got %d octets, error %v, want %d", len(got), err, len(batch))
	}
}

func TestTooLarge(t *testing.T) {
	o := open(t, t.TempDir(), 1<<30)
	want := fmt.Sprintf("writing to a queue: a batch of %d octets, want at most %d", maxValues+5, maxValues)
	if err := o.put(t, 0, make([]byte, maxValues)); fmt.Sprint(err) != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestFullRefusesTheNewest(t *testing.T) {
	const size = 100_000
	o := open(t, t.TempDir(), MinSize)
	var taken int
	for ; !o.storage.Full(); taken++ {
		must(t, o.put(t, taken, value(taken, size)))
	}
	n := taken
	for ; n < 1000; n++ {
		if err := o.put(t, n, value(n, size)); err != nil {
			if !errors.Is(err, xstorage.ErrStorageFull) {
				t.Fatal(err)
			}
			break
		}
	}
	if reserve := int64(n-taken) * size; reserve < maxReserve*9/10 {
		t.Errorf("took %d octets after it was full, want %d", reserve, maxReserve)
	}
	if got := o.storage.Size(); got > MinSize {
		t.Errorf("%d octets, want at most %d", got, MinSize)
	}
	wantValues(t, o, n+1, size, func(i int) bool { return i < n })
	wantRefused(t, o, n)
	for i := range n / 2 { // it becomes shorter all the same
		_, err := o.take(t, i)
		must(t, err)
		must(t, o.done(t, i))
	}
	if o.storage.Full() {
		t.Error("full after half of it has gone")
	}
	must(t, o.put(t, n, value(n, size)))
}

// A value that nobody asks for must not hold all the files behind it.
func TestForgottenValueHoldsNothing(t *testing.T) {
	const size = 100_000
	o := open(t, t.TempDir(), MinSize)
	for i := range 2000 {
		must(t, o.put(t, i, value(i, size)))
		if i != 7 {
			must(t, o.done(t, i))
		}
	}
	wantValues(t, o, 2000, size, func(i int) bool { return i == 7 })
}

// A queue deletes what was being sent before it puts it in again.
func TestKilledBetweenDeleteAndPut(t *testing.T) {
	directory := t.TempDir()
	o := open(t, directory, MinSize)
	must(t, o.put(t, 0, value(0, 10)))
	must(t, o.put(t, 1, value(1, 10)))
	_, err := o.take(t, 0)
	must(t, err)
	must(t, o.Delete(t.Context(), "0"))
	o.kill()

	o = open(t, directory, MinSize)
	wantValues(t, o, 2, 10, func(int) bool { return true })
	must(t, o.Delete(t.Context(), "0"))
	must(t, o.put(t, 2, value(0, 10)))
	_, err = o.take(t, 1)
	must(t, err)
	o.kill()

	o = open(t, directory, MinSize)
	wantValues(t, o, 2, 10, func(i int) bool { return i == 1 })
}

// Whatever happens to the files, the queue starts, has what is readable, and says what is not.
func TestDamage(t *testing.T) {
	const n, size = 100, 100_000 // ten segments
	overwrite := func(at int64, b string) func(*testing.T, []string) {
		return func(t *testing.T, files []string) {
			f, err := os.OpenFile(files[3], os.O_WRONLY, 0)
			must(t, err)
			defer f.Close()
			_, err = f.WriteAt([]byte(b), at)
			must(t, err)
		}
	}
	replace := func(with func(path string) error) func(*testing.T, []string) {
		return func(t *testing.T, files []string) {
			must(t, os.Remove(files[3]))
			must(t, with(files[3]))
		}
	}
	for name, tt := range map[string]struct {
		do     func(*testing.T, []string)
		lost   int // values at most
		silent bool
	}{
		"garbage":           {replace(func(p string) error { return os.WriteFile(p, value(1, 1e6), 0o600) }), 12, false},
		"empty":             {replace(func(p string) error { return os.WriteFile(p, nil, 0o600) }), 12, true},
		"another program's": {replace(func(p string) error { return os.WriteFile(p, []byte("SQLite format 3\x00 and so on"), 0o600) }), 12, false},
		"a directory":       {replace(func(p string) error { return os.Mkdir(p, 0o700) }), 12, false},
		"a pipe":            {replace(func(p string) error { return unix.Mkfifo(p, 0o600) }), 12, false},
		"a link to nowhere": {replace(func(p string) error { return os.Symlink("/nonexistent", p) }), 12, false},
		"a link":            {replace(func(p string) error { return os.Symlink("/dev/zero", p) }), 12, false},
		"gone":              {replace(func(string) error { return nil }), 12, true},
		"magic alone":       {replace(func(p string) error { return os.WriteFile(p, []byte(magic), 0o600) }), 12, true},
		"half magic":        {replace(func(p string) error { return os.WriteFile(p, []byte(magic[:5]), 0o600) }), 12, false},
		"a huge record":     {overwrite(int64(len(magic)), "\xff\xff\xff\xff"), 12, false},
		"a bit":             {overwrite(5*size, "x"), 7, false},
		"cut off":           {func(t *testing.T, files []string) { must(t, os.Truncate(files[3], 5*size)) }, 7, false},
		"cut off in a header": {func(t *testing.T, files []string) {
			must(t, os.Truncate(files[3], int64(len(magic))+3))
		}, 12, false},
		"cut off at the end": {func(t *testing.T, files []string) {
			last := files[len(files)-1]
			info, err := os.Stat(last)
			must(t, err)
			must(t, os.Truncate(last, info.Size()-1))
		}, 1, false},
		"the queue is a file": {func(t *testing.T, files []string) {
			must(t, os.RemoveAll(filepath.Dir(files[0])))
			must(t, os.WriteFile(filepath.Dir(files[0]), nil, 0o600))
		}, n, false},
		"the lock is a directory": {func(t *testing.T, files []string) {
			lock := filepath.Join(filepath.Dir(files[0]), "..", "lock")
			must(t, os.Remove(lock))
			must(t, os.Mkdir(lock, 0o700))
		}, 0, false},
	} {
		t.Run(name, func(t *testing.T) {
			directory := t.TempDir()
			o := open(t, directory, MinSize)
			for i := range n {
				must(t, o.put(t, i, value(i, size)))
			}
			o.kill()
			tt.do(t, segments(t, directory))

			o = open(t, directory, MinSize)
			said := o.logs.TakeAll()
			if len(said) != 1 && !tt.silent || len(said) != 0 && tt.silent {
				t.Errorf("said %v, want one line", said)
			}
			if aside, _ := filepath.Glob(filepath.Join(directory, "*.damaged-*")); len(aside) == 0 {
				if aside, _ = filepath.Glob(filepath.Join(directory, "*", "*.damaged-*")); (len(aside) == 1) == tt.silent {
					t.Errorf("put aside %v", aside)
				}
			}
			o.kill()
			if o = open(t, directory, MinSize); len(o.logs.All()) != 0 {
				t.Errorf("says again %v", o.logs.TakeAll())
			}
			lost := 0
			for i := range n {
				got, err := o.take(t, i)
				switch {
				case errors.Is(err, errMissing):
					lost++
				case err != nil:
					t.Fatal(err)
				case !bytes.Equal(got, value(i, size)):
					t.Fatalf("key %d: wrong value", i)
				}
				must(t, o.done(t, i))
			}
			if lost > tt.lost || lost == 0 && tt.lost > 0 || o.storage.Missing() != int64(lost) || len(o.logs.TakeAll()) != lost {
				t.Errorf("lost %d, counted %d, want %d at most", lost, o.storage.Missing(), tt.lost)
			}
			must(t, o.put(t, n, value(n, size)))
			o.kill()
			o = open(t, directory, MinSize)
			wantValues(t, o, n+1, size, func(i int) bool { return i == n })
			if said := o.logs.All(); len(said) != 0 {
				t.Errorf("says again %v", said)
			}
		})
	}
}

// A file that is damaged while it is in use costs what is in it, and is told of, once.
func TestDamageWhileOpen(t *testing.T) {
	directory := t.TempDir()
	o := open(t, directory, MinSize)
	must(t, o.put(t, 0, value(0, 1000)))
	f, err := os.OpenFile(segments(t, directory)[0], os.O_WRONLY, 0)
	must(t, err)
	defer f.Close()
	_, err = f.WriteAt([]byte("xxxx"), 500)
	must(t, err)
	for range 2 { // one looks ahead, and comes to it
		if _, err := o.Get(t.Context(), "0"); !errors.Is(err, errMissing) || o.storage.Missing() != 1 {
			t.Errorf("looking ahead: got error %v, counted %d", err, o.storage.Missing())
		}
		if _, err := o.take(t, 0); !errors.Is(err, errMissing) || o.storage.Missing() != 1 {
			t.Errorf("got error %v, counted %d", err, o.storage.Missing())
		}
	}
}

func TestUsedByAnother(t *testing.T) {
	directory := t.TempDir()
	open(t, directory, MinSize)
	err := New(directory, MinSize, zap.NewNop()).Start(t.Context(), nil)
	if want := "locking the directory of the queues " + directory + ": another process uses it"; err == nil || err.Error() != want {
		t.Errorf("got error %v, want %s", err, want)
	}
}

func TestDirectoryThatCannotBe(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	must(t, os.WriteFile(file, nil, 0o600))
	for directory, want := range map[string]string{
		file:                               "creating the directory of the queues: mkdir " + file + ": not a directory",
		filepath.Join(file, "queues"):      "creating the directory of the queues: mkdir " + file + ": not a directory",
		"/proc/self/queues":                "creating the directory of the queues: mkdir /proc/self/queues: no such file or directory",
		"/proc/self/net":                   "opening the directory of the queues: open /proc/self/net/lock: no such file or directory",
		"/" + strings.Repeat("x", 256):     "creating the directory of the queues: mkdir /" + strings.Repeat("x", 256) + ": file name too long",
		filepath.Join(file, "..", "a\x00"): "creating the directory of the queues: mkdir " + filepath.Join(filepath.Dir(file), "a\x00") + ": invalid argument",
	} {
		s := New(directory, MinSize, zap.NewNop())
		err := s.Start(t.Context(), nil)
		if err == nil || err.Error() != want {
			t.Errorf("%q: got error %v, want %s", directory, err, want)
		}
		must(t, s.Shutdown(t.Context()))
	}
}

func TestUnclaimed(t *testing.T) {
	directory := t.TempDir()
	o := open(t, directory, MinSize)
	must(t, o.put(t, 0, nil))
	o.kill()
	s := New(directory, MinSize, zap.NewNop())
	must(t, s.Start(t.Context(), nil))
	defer func() { must(t, s.Shutdown(t.Context())) }()
	if diff := cmp.Diff([]string{"otlp%2Fa%2Fb.logs"}, s.Unclaimed()); diff != "" {
		t.Error(diff)
	}
	client, err := s.GetClient(t.Context(), component.KindExporter, component.MustNewIDWithName("otlp", "a/b"), "logs")
	must(t, err)
	if got := s.Unclaimed(); len(got) != 0 {
		t.Errorf("got %v", got)
	}
	must(t, client.Close(t.Context()))
	if err := client.Set(t.Context(), "a", nil); !errors.Is(err, os.ErrClosed) {
		t.Errorf("closed: got error %v", err)
	}
}

// A disk without room refuses what is new, loses nothing of what it has, and does not keep the queue
// from becoming shorter.
func TestDiskWithoutRoom(t *testing.T) {
	const size = 100_000
	directory := t.TempDir()
	if err := unix.Mount("connspan", directory, "tmpfs", 0, "size=4m"); err != nil {
		t.Skipf("mounting a small file system: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(directory, unix.MNT_DETACH) })
	o := open(t, directory, 1<<30)
	n := 0
	for ; ; n++ {
		if err := o.put(t, n, value(n, size)); err != nil {
			if !errors.Is(err, unix.ENOSPC) {
				t.Fatal(err)
			}
			break
		}
	}
	if n < 30 || !o.storage.Full() {
		t.Errorf("took %d, full: %v", n, o.storage.Full())
	}
	wantValues(t, o, n, size, func(int) bool { return true })
	wantRefused(t, o, n)
	o.kill()

	o = open(t, directory, 1<<30)
	if said := o.logs.All(); len(said) != 0 {
		t.Errorf("what found no room left %v", said)
	}
	_ = os.WriteFile(filepath.Join(directory, "rest"), make([]byte, size), 0o600) // up to the last octet
	for range 200 {
		must(t, o.Set(t.Context(), "meta", make([]byte, 100)))
	}
	for i := range n {
		got, err := o.take(t, i)
		must(t, err)
		if !bytes.Equal(got, value(i, size)) {
			t.Fatalf("key %d: wrong value", i)
		}
		must(t, o.done(t, i))
	}
}

// BenchmarkQueue is the way of a batch through a queue, on whatever the temporary directory is on.
func BenchmarkQueue(b *testing.B) {
	s := New(b.TempDir(), 1<<30, zap.NewNop())
	q, err := s.GetClient(b.Context(), component.KindExporter, component.MustNewID("otlp"), "logs")
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = q.Close(b.Context()) }()
	batch := alike(1000)
	meta := xstorage.SetOperation("meta", value(0, 30))
	b.SetBytes(int64(len(batch)))
	b.ReportAllocs()
	for b.Loop() {
		err := errors.Join(
			q.Batch(b.Context(), meta, xstorage.SetOperation("1", batch)),
			q.Batch(b.Context(), meta, xstorage.GetOperation("1")),
			q.Batch(b.Context(), meta, xstorage.DeleteOperation("1")))
		if err != nil {
			b.Fatal(err)
		}
	}
}

func FuzzReplay(f *testing.F) {
	record := encode(nil, []*xstorage.Operation{xstorage.SetOperation("key", []byte("value")), xstorage.DeleteOperation("gone")})
	f.Add(append([]byte(magic), record...))
	f.Fuzz(func(t *testing.T, b []byte) {
		path := filepath.Join(t.TempDir(), segmentName(0))
		must(t, os.WriteFile(path, b, 0o600))
		seg, err := openSegment(0, path)
		must(t, err)
		defer seg.file.Close()
		good, err := seg.replay(func(p place, op *xstorage.Operation) {
			want, wantErr := unpack(op.Value)
			if got, err := seg.read(p); (err == nil) != (wantErr == nil) || !bytes.Equal(got, want) {
				t.Errorf("at %d: got %q, error %v, want %q, %v", p.offset, got, err, want, wantErr)
			}
		})
		if (err == nil) != (good > 0 && good == int64(len(b))) {
			t.Errorf("%d of %d octets are good, error %v", good, len(b), err)
		}
	})
}
