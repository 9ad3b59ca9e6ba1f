//go:build !race

package exporter

import "time"

// startUp is the processor time, of the reader, which is one goroutine, and of the test's consumer, that it may
// take to take in 200,000 connections that are older than the tracer: on a machine that has a processor to
// spare it takes no longer than that. How long it takes where others have them too says nothing.
const startUp = 5 * time.Second
