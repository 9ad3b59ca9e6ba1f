package otlp

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/collector/config/configtls"
	"go.opentelemetry.io/collector/consumer/consumererror"
)

// reloading is a connection that is replaced when the content of the files of tls has changed.
// configtls itself reads only cert_file and key_file again, and ca_file never.
type reloading struct {
	connect  func() (connection, error)
	files    []string
	interval time.Duration // 0: never

	look    sync.Mutex // guards looked, content and unfit
	looked  time.Time
	content [sha256.Size]byte
	unfit   error       // why the files as they are now are not used
	failed  atomic.Bool // an attempt, since looked

	mu      sync.RWMutex // held for reading by who exports
	current connection
}

// newReloading connects for the first time. Unless tls.reload_interval is 0, it looks at the files
// before each attempt that follows a failed one, so that replacing them heals at once, and else in
// that interval.
func newReloading(tls configtls.ClientConfig, connect func() (connection, error)) (*reloading, error) {
	r := &reloading{
		connect:  connect,
		files:    []string{tls.CAFile, tls.CertFile, tls.KeyFile},
		interval: tls.ReloadInterval,
		looked:   time.Now(),
	}
	r.content = r.read() // before connect: what changes meanwhile is seen the next time
	var err error
	if r.current, err = connect(); err != nil {
		return nil, err
	}
	return r, nil
}

// read returns what tells one content of the files from another.
func (r *reloading) read() [sha256.Size]byte {
	var all bytes.Buffer
	for _, file := range r.files {
		if file == "" {
			continue
		}
		content, err := os.ReadFile(file)
		sum := sha256.Sum256(content)
		all.Write(sum[:])
		if err != nil {
			all.WriteString(err.Error())
		}
	}
	return sha256.Sum256(all.Bytes())
}

func (r *reloading) export(ctx context.Context, request request) (answer, error) {
	unfit := r.refresh()
	r.mu.RLock()
	defer r.mu.RUnlock()
	a, err := r.current.export(ctx, request)
	if err != nil && !consumererror.IsPermanent(err) {
		r.failed.Store(true)
		if unfit != nil {
			err = fmt.Errorf("%w; new certificates not used: %w", err, unfit)
		}
	}
	return a, err
}

// refresh replaces the connection if that is due. Files that are not fit to be used leave it as it is:
// it may be that only some of them are new yet.
func (r *reloading) refresh() (unfit error) {
	r.look.Lock()
	defer r.look.Unlock()
	if r.interval == 0 || !r.failed.Load() && time.Since(r.looked) < r.interval {
		return r.unfit
	}
	r.looked = time.Now()
	r.failed.Store(false)
	content := r.read()
	if content == r.content {
		return r.unfit
	}
	next, err := r.connect()
	r.unfit = err
	if err != nil {
		return err
	}
	r.mu.Lock() // waits for the answers to what is on its way
	defer r.mu.Unlock()
	_ = r.current.close()
	r.current, r.content = next, content
	return nil
}

func (r *reloading) close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.current.close()
}
