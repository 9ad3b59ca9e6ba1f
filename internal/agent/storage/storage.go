package storage

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/collector/component"
	xstorage "go.opentelemetry.io/collector/extension/xextension/storage"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"
)

const (
	// MinSize is the least bound of a [Storage], in octets.
	MinSize = 16 << 20
	// maxReserve bounds the room that Full keeps for the batch that is being made.
	maxReserve = 4 << 20
	// maxSegment bounds a segment, but for the one record that it holds at least.
	maxSegment = 8 << 20
	// pause is how long Full holds after the disk had no room.
	pause = time.Second
)

// Storage is a directory with the queues of the exporters. Its methods may be called concurrently,
// but for Start and Shutdown.
type Storage struct {
	directory string
	maxSize   int64
	logger    *zap.Logger
	lock      *os.File

	used    atomic.Int64 // octets of the segments of all queues
	noRoom  atomic.Int64 // Unix time in nanoseconds when the disk had no room
	missing atomic.Int64
	opened  map[string]bool // names of the queues
}

var _ xstorage.Extension = (*Storage)(nil)

// New returns the storage in directory, which Start creates, for at most maxSize octets, [MinSize] or
// more. logger hears of damaged files and of a disk that takes nothing.
func New(directory string, maxSize int64, logger *zap.Logger) *Storage {
	return &Storage{directory: directory, maxSize: maxSize, logger: logger, opened: make(map[string]bool)}
}

// Start takes the directory for this process. The error says what keeps it from doing so.
func (s *Storage) Start(context.Context, component.Host) error {
	if err := os.MkdirAll(s.directory, 0o700); err != nil {
		return fmt.Errorf("creating the directory of the queues: %w", err)
	}
	path := filepath.Join(s.directory, "lock")
	if info, err := os.Lstat(path); err == nil && !info.Mode().IsRegular() {
		s.moveAside(path, "not a file")
	}
	lock, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("opening the directory of the queues: %w", err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = lock.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = errors.New("another process uses it")
		}
		return fmt.Errorf("locking the directory of the queues %s: %w", s.directory, err)
	}
	s.lock = lock
	return nil
}

// Shutdown leaves the directory to others. Its clients must have been closed.
func (s *Storage) Shutdown(context.Context) error {
	if s.lock == nil {
		return nil
	}
	return s.lock.Close()
}

// GetClient opens the queue of an exporter, with what an earlier process has left in it. Each may be
// open once.
func (s *Storage) GetClient(_ context.Context, _ component.Kind, id component.ID, signal string) (xstorage.Client, error) {
	name := url.PathEscape(id.String()) + "." + signal
	directory := filepath.Join(s.directory, name)
	if info, err := os.Lstat(directory); err == nil && !info.IsDir() {
		s.moveAside(directory, "not a directory")
	} else if err := unix.Access(directory, unix.R_OK|unix.W_OK|unix.X_OK); err != nil && !errors.Is(err, unix.ENOENT) {
		s.moveAside(directory, err.Error())
	}
	if err := os.MkdirAll(directory, 0o700); err != nil {
		return nil, fmt.Errorf("creating a queue: %w", err)
	}
	s.opened[name] = true
	return openQueue(s, directory)
}

// Unclaimed names the queues in the directory that no exporter has opened: theirs is no longer
// configured. What is in them stays.
func (s *Storage) Unclaimed() []string {
	entries, _ := os.ReadDir(s.directory) // it could be read when it was locked
	var names []string
	for _, entry := range entries {
		if queue, _ := filepath.Glob(filepath.Join(s.directory, entry.Name(), "*"+suffix)); len(queue) > 0 && !s.opened[entry.Name()] {
			names = append(names, entry.Name())
		}
	}
	return slices.Sorted(slices.Values(names))
}

// Full reports whether a batch might find no room. To ask before a queue is given something is better
// than its error, which comes after it has counted what it could not take.
func (s *Storage) Full() bool {
	return s.used.Load()+s.reserve() > s.maxSize || time.Since(time.Unix(0, s.noRoom.Load())) < pause
}

func (s *Storage) reserve() int64 { return min(s.maxSize/4, maxReserve) }
func (s *Storage) segment() int64 { return min(s.maxSize/16, maxSegment) }

// Size is the octets of all queues on the disk.
func (s *Storage) Size() int64 { return s.used.Load() }

// Missing is the number of batches that were in a queue by its own account, and could not be read:
// they were in a file that got damaged.
func (s *Storage) Missing() int64 { return s.missing.Load() }

// moveAside renames what is in the way of a queue, and says so. When it cannot, whoever comes next
// says why.
func (s *Storage) moveAside(path, reason string) {
	aside := asideOf(path)
	if err := os.Rename(path, aside); err != nil {
		aside = err.Error()
	}
	s.logger.Warn("damaged queue file put aside", zap.String("file", path), zap.String("reason", reason), zap.String("moved_to", aside))
}

func asideOf(path string) string {
	return path + ".damaged-" + time.Now().UTC().Format("20060102T150405.000000000")
}
