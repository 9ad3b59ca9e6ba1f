// Package compose_test holds the files of this directory against the programs that read them: the loader of Docker
// Compose, a Collector, Prometheus, and connspan.
package compose_test

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		if path, err := connspan(); err == nil {
			_ = os.RemoveAll(filepath.Dir(path))
		}
		os.Exit(code)
	}))
}

// network is of this test process alone: the ports of the example are free there, whoever else listens on 127.0.0.1.
// The example is at loopback, what stands for Loki, Tempo and Jaeger is at backends.
var (
	network  = fmt.Sprintf("127.%d.%d.", 64+os.Getpid()>>8&63, os.Getpid()&255)
	loopback = network + "1"
	backends = network + "2"
)

// install copies a file of the example to a directory of the test, with what must differ there.
func install(t *testing.T, name string, oldnew ...string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(oldnew); i += 2 {
		if !strings.Contains(string(b), oldnew[i]) {
			t.Fatalf("%s has no %q any more", name, oldnew[i])
		}
	}
	path := filepath.Join(t.TempDir(), filepath.Base(name))
	if err := os.WriteFile(path, []byte(strings.NewReplacer(oldnew...).Replace(string(b))), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// start runs a program until the test ends, or the function that it returns is called. Where the test has failed, its
// log follows what it says last.
func start(t *testing.T, env []string, name string, args ...string) (stop func()) {
	t.Helper()
	log, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stop = sync.OnceFunc(func() {
		_ = cmd.Process.Signal(os.Interrupt)
		kill := time.AfterFunc(20*time.Second, func() { _ = cmd.Process.Kill() })
		_ = cmd.Wait()
		kill.Stop()
		_ = log.Close()
		if b, err := os.ReadFile(log.Name()); err == nil && t.Failed() {
			t.Logf("%s:\n%s", filepath.Base(name), b[max(0, len(b)-2000):])
		}
	})
	t.Cleanup(stop)
	return stop
}

// await calls try until it gives no error, and fails the test with the last one after a minute.
func await(t *testing.T, try func() error) {
	t.Helper()
	var err error
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		if err = try(); err == nil {
			return
		}
	}
	t.Fatalf("after a minute: %v", err)
}

func awaitOK(t *testing.T, url string) {
	t.Helper()
	await(t, func() error {
		client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 5 * time.Second}
		response, err := client.Get(url)
		if err != nil {
			return err
		}
		defer response.Body.Close()
		if response.StatusCode != http.StatusOK {
			return fmt.Errorf("%s: %s", url, response.Status)
		}
		return nil
	})
}

// otelcol gives the path of the Collector.
func otelcol(t *testing.T) string {
	t.Helper()
	if path := os.Getenv("CONNSPAN_TEST_COLLECTOR"); path != "" {
		return path
	}
	out, err := exec.Command("../../otelcol-config/build.sh").Output()
	if err != nil {
		t.Fatalf("building the Collector: %v", err)
	}
	return strings.TrimSpace(string(out))
}

// startCollector runs the example's Collector, and one more in the place of Loki, Tempo and Jaeger, which writes what it
// receives to a file.
func startCollector(t *testing.T) (file string) {
	t.Helper()
	program := otelcol(t)
	file = filepath.Join(t.TempDir(), "otlp.jsonl")
	start(t, []string{"CONNSPAN_OTLP_GRPC=" + backends + ":4317", "CONNSPAN_OTLP_HTTP=" + backends + ":4318", "CONNSPAN_FILE=" + file},
		program, "--config", "../../otelcol-config/debug-file.yaml")
	start(t, nil, program, "--config", install(t, "collector.yaml", "0.0.0.0", loopback,
		"http://loki:3100/otlp", "http://"+backends+":4318", "tempo:4317", backends+":4317", "jaeger:4317", backends+":4317"))
	awaitOK(t, "http://"+loopback+":13133/")
	return file
}

// startPrometheus runs the example's Prometheus, with the flags that it has there, and scrapes that follow each other
// faster.
func startPrometheus(t *testing.T) *prometheus {
	t.Helper()
	config := install(t, "prometheus.yaml", "127.0.0.1", loopback, "scrape_interval: 15s", "scrape_interval: 2s")
	var args []string
	there := strings.NewReplacer("/etc/prometheus/prometheus.yaml", config, "=/prometheus", "="+t.TempDir(), "127.0.0.1", loopback)
	for _, arg := range project(t).Services["prometheus"].Command {
		args = append(args, there.Replace(arg))
	}
	program := os.Getenv("CONNSPAN_TEST_PROMETHEUS")
	if program == "" {
		program = "prometheus"
	}
	start(t, nil, program, args...)
	awaitOK(t, "http://"+loopback+":9090/-/ready")
	return newPrometheus(t, "http://"+loopback+":9090")
}

// connspan builds the program, once, and gives its path.
var connspan = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "connspan-test-")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "connspan")
	cmd := exec.Command("go", "build", "-o", path, "../..")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building connspan: %w: %s", err, out)
	}
	return path, nil
})
