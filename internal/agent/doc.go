// Package agent is the program connspan: its command line, its configuration file, and the life of
// the tracer and of the exporters behind it. [Main] is all of it.
package agent
