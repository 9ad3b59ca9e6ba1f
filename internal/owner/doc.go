// Package owner says what a process is that owns a connection: its executable, its container and
// unit, its user, and what its own environment calls it. It reads /proc, as early as it is asked to.
// Of a process that has exited by then nothing is left there but what it was introduced with.
//
// Text is as the process or its host has it: bounded, but any octets.
package owner

// ID tells a process apart from all others, also when its pid is used again.
type ID struct {
	PID     uint32   // of its thread group, in the initial PID namespace; 0: no process
	UID     uint32   // in the initial user namespace
	Started uint64   // nanoseconds since boot, suspend included
	Comm    [16]byte // the kernel's name, then NUL; another one once it has executed something else
}

// Process is what could be read of a process. What is not known is empty. It is shared: do not change it.
type Process struct {
	ParentPID  uint32
	Executable string   // path, as the process's own mount namespace has it
	Args       []string // with Config.CommandLine; the secrets in it replaced
	User       string   // name of ID.UID on this host; none in a container
	Group      Group
	// Attributes are those of its own OTEL_RESOURCE_ATTRIBUTES, with OTEL_SERVICE_NAME as service.name.
	Attributes map[string]string
}

// An Introduction is what the kernel says of a process when it first owns a connection.
type Introduction struct {
	ID
	ParentPID  uint32
	Executable string   // path; empty where it is not known
	Groups     []string // paths of its control groups, in any number of hierarchies
}

// Config says what to read beside the rest.
type Config struct {
	CommandLine bool
	// Redact are globs of option names, in any case: what is given for such an option in a command line
	// is replaced.
	Redact      []string
	Environment bool
}
