// Package console writes what happens to the terminal: log records for people to read, one line per
// connection event, or all three signals as OTLP/JSON, one request per line. Text shows log records
// alone: a span and a data point have nothing to tell, line by line, that those have not told.
//
// A writer that takes its time, such as a terminal that is stopped or a pipe that nobody reads,
// delays nobody: what comes waits in a queue in memory, and when that is full the newest is refused.
// A writer that fails is given up for good, so that no output has a hole that does not show.
package console
