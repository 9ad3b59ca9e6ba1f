package exporter

import (
	"os"
	"testing"
)

// guestEnv is set, by internal/vm, in the guests of virtual machines, which may be treated in a way
// that no host should be. In one whose CPU 1 is stalled by its host it says so.
const (
	guestEnv     = "CONNSPAN_TEST_VM"
	guestStalled = "stalled"
)

func inGuest(t *testing.T) {
	t.Helper()
	if os.Getenv(guestEnv) == "" {
		t.Skipf("for a virtual machine alone: %s is not set; make test-kernels", guestEnv)
	}
}
