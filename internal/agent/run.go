package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"time"

	"go.uber.org/zap/exp/zapslog"
	"golang.org/x/sys/unix"

	"github.com/connspan/connspan/exporter"
	"github.com/connspan/connspan/internal/telemetry"
)

// shutdownTimeout bounds how long the exporters together may take to send what they have.
const shutdownTimeout = 5 * time.Second

// What the garbage may be of what is in use, and octets that count as in use though nothing touches them, so
// that they are no memory. Most of what the program allocates lives for one batch: with these 12 MiB of
// garbage and half of what is in use, it is looked for a third as often, and full queues stay what they are.
const (
	gcPercent = 50
	ballast   = 24 << 20
)

// run traces and exports until SIGINT or SIGTERM.
func run(version, file, btf string, stdout, stderr io.Writer) (err error) {
	cfg, err := load(file, stderr)
	if err != nil {
		return err
	}
	cfg.Exporter.Tracer.BTF = btf
	if os.Getenv("GOGC") == "" {
		defer debug.SetGCPercent(debug.SetGCPercent(gcPercent))
		defer runtime.KeepAlive(make([]byte, ballast))
	}

	signals, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	// A second signal ends the program at once, but not one that comes together with the first:
	// timeout(1) signals the process and then its group.
	context.AfterFunc(signals, func() { time.AfterFunc(time.Second, stop) })
	// A reader of stdout that goes away ends the console, not the other exporters with it.
	signal.Ignore(unix.SIGPIPE)
	defer signal.Reset(unix.SIGPIPE)

	ctx, giveUp := context.WithCancelCause(signals)
	defer giveUp(nil)
	own, err := telemetry.Start(cfg.Telemetry, versionOf(version), cfg.Storage.Directory != "")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, own.Close()) }()
	logger := newLogger(cfg.Telemetry.Logs.Level, stderr)
	exporters, err := newExporters(versionOf(version), cfg, own, logger, stdout, giveUp)
	if err != nil {
		return err
	}
	handler := slog.Handler(zapslog.NewHandler(logger.Core()))
	if cfg.Telemetry.Logs.OTLP {
		remote, err := own.Handler(exporters.overOTLP())
		if err != nil {
			return err
		}
		handler = slog.NewMultiHandler(handler, remote)
	}
	if err := exporters.start(); err != nil {
		return err
	}
	err = trace(ctx, cfg.Exporter, exporters, own, slog.New(handler))
	if err == nil && signals.Err() == nil {
		err = context.Cause(ctx)
	}
	return err
}

// trace runs the tracer until ctx ends, then has the exporters send what they have.
func trace(ctx context.Context, cfg exporter.Config, exporters *exporters, own *telemetry.Telemetry, logger *slog.Logger) error {
	tracer, err := exporter.New(cfg, exporters.consumers(), logger)
	if err != nil {
		exporters.shutdown()
		return err
	}
	debug.FreeOSMemory() // the kernel's types, which New has read: an idle program looks for garbage rarely
	logger.Info("tracing TCP connections", "kernel", kernel(), "events", cfg.Logs.Events, "exporters", exporters.targets(), "telemetry", own.Address())
	err = tracer.Observe(own.MeterProvider().Meter("github.com/connspan/connspan/exporter"))
	stop := own.Watch(ctx, tracer.Stats)
	err = errors.Join(err, tracer.Run(ctx))
	stop()
	stats, statsErr := tracer.Stats()
	err = errors.Join(err, statsErr, tracer.Close())
	logger.Info("stopped",
		"read", stats.Read, "released", stats.Released,
		"opened", stats.Opened, "closed", stats.Closed, "failed", stats.Failed, "adopted", stats.Adopted,
		"repeated", stats.Repeated, "sampled", stats.Sampled, "strays", stats.Strays, "synthesized", stats.Synthesized, "open", stats.Open,
		"lost", stats.Lost, "unseen", stats.Unseen, "malformed", stats.Malformed+stats.Corrupt, "late", stats.Late, "violations", stats.Violations,
		"refused", stats.Refused())
	exporters.shutdown()
	return err
}

// kernel names the running kernel.
func kernel() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return err.Error()
	}
	return fmt.Sprintf("%s %s %s", unix.ByteSliceToString(u.Sysname[:]), unix.ByteSliceToString(u.Release[:]), unix.ByteSliceToString(u.Machine[:]))
}
