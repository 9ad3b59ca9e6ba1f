// Package telemetry is what the program tells of itself: its metrics and its health over HTTP, and its
// messages over OTLP.
package telemetry
