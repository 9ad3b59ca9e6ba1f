// Package exporter traces every TCP connection on a host and gives each one, in the order in
// which things happened, to OpenTelemetry consumers.
//
// The seam is the Collector's own consumer interfaces: behind [Consumers] may stand the OTLP
// senders of exporter/otlp, the next component of a Collector, or whatever a program has of its
// own. An [Exporter] runs on one host, needs root or CAP_BPF and CAP_PERFMON, and leaves the
// process that it runs in out of what it tells.
//
// [Exporter.Run] is the whole way from kernel to consumer, readable from top to bottom.
package exporter
