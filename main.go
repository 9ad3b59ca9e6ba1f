// Command connspan reports every TCP connection of a host to OpenTelemetry.
package main

import (
	"os"

	"github.com/connspan/connspan/internal/agent"
)

// version is set by the build.
var version string

func main() { os.Exit(agent.Main(version, os.Args[1:], os.Stdout, os.Stderr)) }
