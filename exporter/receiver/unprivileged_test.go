package receiver

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/consumer/consumertest"
	"go.opentelemetry.io/collector/receiver/receivertest"
)

// unprivileged says to the test that its process may not trace.
const unprivileged = "CONNSPAN_TEST_UNPRIVILEGED"

// TestUnprivileged: a Collector that may not trace does not start, and says in one line why.
func TestUnprivileged(t *testing.T) {
	if os.Getenv(unprivileged) == "" {
		runUnprivileged(t)
		return
	}
	r, err := NewFactory().CreateLogs(t.Context(), receivertest.NewNopSettings(Type), testConfig(), consumertest.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	err = r.Start(t.Context(), componenttest.NewNopHost())
	if err == nil || strings.Contains(err.Error(), "\n") || !strings.Contains(err.Error(), "lacks CAP_BPF and CAP_PERFMON") {
		t.Errorf("%v, want a line that names the capabilities", err)
	}
	if err := r.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
}

// runUnprivileged runs the calling test again, as another user, who needs a copy of the binary to run it.
func runUnprivileged(t *testing.T) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	binary, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "connspan-test-") //nolint:usetesting // t.TempDir is for this user alone
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	path := filepath.Join(dir, "receiver.test")
	if err := os.WriteFile(path, binary, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), path, "-test.run", "^"+t.Name()+"$", "-test.v")
	cmd.Dir = "/"
	cmd.Env = append(os.Environ(), unprivileged+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}
