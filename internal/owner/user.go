package owner

import (
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

// maxPasswd bounds how much of the user database is read.
const maxPasswd = 1 << 20

// users names ids by the file that holds the host's own users, read again when it has changed. No
// name service is asked: that may be on the network, and take as long as it likes.
type users struct {
	path string

	mu      sync.Mutex
	changed time.Time
	size    int64
	names   map[uint32]string
}

func (u *users) name(uid uint32) string {
	u.mu.Lock()
	defer u.mu.Unlock()
	info, err := os.Lstat(u.path)
	if err != nil || !info.Mode().IsRegular() {
		return ""
	}
	if !info.ModTime().Equal(u.changed) || info.Size() != u.size {
		u.changed, u.size = info.ModTime(), info.Size()
		u.names = readPasswd(u.path)
	}
	return u.names[uid]
}

func readPasswd(path string) map[uint32]string {
	f, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer func() { _ = f.Close() }()
	text, err := io.ReadAll(io.LimitReader(f, maxPasswd))
	if err != nil {
		return nil
	}
	return parsePasswd(string(text))
}

// parsePasswd reads a file of the form that passwd(5) describes. Of several names of an id the first
// counts.
func parsePasswd(text string) map[uint32]string {
	names := map[uint32]string{}
	for line := range strings.Lines(text) {
		fields := strings.SplitN(line, ":", 4)
		if len(fields) < 4 || fields[0] == "" {
			continue
		}
		uid, err := strconv.ParseUint(fields[2], 10, 32)
		if _, known := names[uint32(uid)]; err != nil || known {
			continue
		}
		names[uint32(uid)] = cut(fields[0], maxKey)
	}
	return names
}
