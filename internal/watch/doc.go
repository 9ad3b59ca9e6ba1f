// Package watch shows TCP connections while they happen: as a table that fills the terminal or, where
// the output is none, as lines of text. It takes the same ordered stream as every exporter, and sends
// nothing anywhere.
//
// The way is: feed (the consumer) -> table (what is open, and what has just ended) -> view (filter,
// order, columns, text) -> Bubble Tea, which draws what has changed.
package watch
