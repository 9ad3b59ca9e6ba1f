// Embed traces the TCP connections of its host from inside a Go program, and prints each one that has come to
// its end: who it was, with whom, how much went over it, and how it ended.
//
//	go build -o embed ./examples/embed && sudo ./embed
//
// It ends with Ctrl-C. The program's own connections are left out.
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"

	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"

	"github.com/connspan/connspan/exporter"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, log.New(os.Stdout, "", 0)); err != nil {
		fmt.Fprintln(os.Stderr, "embed:", err)
		os.Exit(1)
	}
}

// run traces until ctx ends.
func run(ctx context.Context, out *log.Logger) error {
	// A consumer is called by the goroutine that reads the kernel's rings, and must not block, as a terminal
	// may: so it hands the batch on, or refuses it, which is counted.
	batches := make(chan plog.Logs, 100)
	logs, err := consumer.NewLogs(func(_ context.Context, ld plog.Logs) error {
		select {
		case batches <- ld:
			return nil
		default:
			return errors.New("the terminal is behind")
		}
	})
	if err != nil {
		return err
	}

	cfg := exporter.NewDefaultConfig()
	cfg.Logs.Events = []string{exporter.EventClosed, exporter.EventFailed}
	logger := slog.New(slog.NewTextHandler(os.Stderr, nil))
	x, err := exporter.New(cfg, exporter.Consumers{Logs: []consumer.Logs{logs}}, logger)
	if err != nil {
		return err
	}
	defer func() { _ = x.Close() }()
	out.Println("tracing, end it with Ctrl-C")

	printed := make(chan struct{})
	go func() {
		defer close(printed)
		for ld := range batches {
			show(out, ld)
		}
	}()
	err = x.Run(ctx) // returns when everything that happened before the end of ctx has been told
	close(batches)
	<-printed
	if err != nil {
		return err
	}

	stats, err := x.Stats()
	if err != nil {
		return err
	}
	out.Printf("%d opened, %d closed, %d failed, %d still open; %d events lost, %d records refused",
		stats.Opened, stats.Closed, stats.Failed, stats.Open, stats.Lost, stats.Refused())
	return nil
}

// show prints a line for each record.
func show(out *log.Logger, ld plog.Logs) {
	for _, rl := range ld.ResourceLogs().All() { // one for each process
		for _, sl := range rl.ScopeLogs().All() {
			for _, lr := range sl.LogRecords().All() {
				m := lr.Attributes()
				carried := ""
				if sent := get(m, "tcp.connection.bytes_sent"); sent != "" {
					carried = fmt.Sprintf(", %s octets sent, %s received", sent, get(m, "tcp.connection.bytes_received"))
				}
				out.Printf("%s %-21s %s[%s] %s %s%s", lr.Timestamp().AsTime().Local().Format(time.TimeOnly), lr.EventName(),
					get(m, "process.executable.name"), get(m, "process.pid"),
					net.JoinHostPort(get(m, "network.peer.address"), get(m, "network.peer.port")),
					cmp.Or(get(m, "error.type"), get(m, "tcp.connection.close.reason")), carried)
			}
		}
	}
}

// get is empty for what is not known.
func get(m pcommon.Map, key string) string {
	v, ok := m.Get(key)
	if !ok {
		return ""
	}
	return v.AsString()
}
