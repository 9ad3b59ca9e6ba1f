package agent

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os/signal"
	"strings"
	"time"

	"go.uber.org/zap/exp/zapslog"
	"golang.org/x/sys/unix"

	"github.com/connspan/connspan/internal/watch"
)

// show shows connections on stdout until SIGINT, SIGTERM or the user ends it. Of the configuration it
// takes how to trace.
func show(words []string, file, btf string, stdout, stderr io.Writer) error {
	filter, err := watch.ParseFilter(strings.Join(words, " "))
	if err != nil {
		return usageError{fmt.Errorf("watch: %w; see connspan help", err)}
	}
	cfg, err := load(file, stderr)
	if err != nil {
		return err
	}
	cfg.Exporter.Tracer.BTF = btf
	// SIGHUP and SIGQUIT too: whatever ends it must give the terminal back.
	signals, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT)
	defer stop()
	context.AfterFunc(signals, func() { time.AfterFunc(time.Second, stop) }) // a second one ends it at once
	signal.Ignore(unix.SIGPIPE)
	defer signal.Reset(unix.SIGPIPE)
	return watch.Run(signals, watch.Config{
		Exporter: cfg.Exporter,
		Filter:   filter,
		Stdout:   stdout,
		Logger:   slog.New(zapslog.NewHandler(newLogger(cfg.Telemetry.Logs.Level, stderr).Core())),
	})
}
