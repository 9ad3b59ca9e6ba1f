// Package console writes log records for people to read, one line per connection event, or as
// OTLP/JSON, one request per line.
//
// A writer that takes its time, such as a terminal that is stopped or a pipe that nobody reads,
// delays nobody: records wait in a queue in memory, and when that is full the newest are refused.
// A writer that fails is given up for good, so that no output has a hole that does not show.
package console
