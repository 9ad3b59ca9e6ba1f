// Package receiver makes the tracer a receiver of the OpenTelemetry Collector, of type connspan: the
// Collector itself then traces the host that it runs on, and needs root or CAP_BPF and CAP_PERFMON.
//
// Build it into a Collector with the OpenTelemetry Collector Builder; otelcol-config/receiver has a
// manifest and a configuration. The pipelines of all signals that name the same component share one
// tracer. It begins when the last of them has started, so that nothing goes into a pipeline that is
// not there yet, and ends with the first that is shut down.
//
// The tracer reads the kernel's rings and must not wait, while a pipeline may block, or refuse for a
// time, as memory_limiter does. So there is a queue between them for each signal. It passes one batch
// after the other, in order, and offers again what was refused, unless that is permanent. Delivery is
// at least once: where one of several pipelines refuses, the others get the batch again. When the
// queue is full, what is newest is refused, counted, and reported as the component's status.
package receiver
