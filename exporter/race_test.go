//go:build race

package exporter

import "time"

// startUp is longer here: the race detector follows each access to memory, which makes the reader, and the
// test's own consumer with it, about ten times slower. That all are adopted is to be seen all the same.
const startUp = 10 * 5 * time.Second
