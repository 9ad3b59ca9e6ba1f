package watch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"time"

	tea "charm.land/bubbletea/v2"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/pdata/plog"
	"golang.org/x/sys/unix"

	"github.com/connspan/connspan/exporter"
)

// lookEvery is how often the screen changes by itself.
const lookEvery = 500 * time.Millisecond

// Config says what to watch, and where to show it.
type Config struct {
	Exporter exporter.Config // which signals it tells is set by Run
	Filter   Filter
	// Stdout is a terminal, or what takes lines. It remains the caller's to close.
	Stdout io.Writer
	// Logger takes the program's messages; while the screen is on the terminal none.
	Logger *slog.Logger
}

// Run shows the connections until ctx ends, or until the user has seen enough. The terminal is then as
// it was before, whatever the error.
func Run(ctx context.Context, cfg Config) error {
	cfg.Exporter.Metrics.Interval = 0
	cfg.Exporter.Traces.SampleRatio = 0
	cfg.Exporter.Logs = exporter.LogsConfig{Events: []string{exporter.EventOpened, exporter.EventClosed, exporter.EventFailed}}
	out, ok := cfg.Stdout.(*os.File)
	if !ok || !isTerminal(out) {
		return printLines(ctx, cfg)
	}
	cfg.Exporter.Logs.Heartbeat = time.Second
	messages := &messages{}
	defer messages.release(ctx, cfg.Logger)
	logger := slog.New(held{cfg.Logger.Handler(), messages})
	f := &feed{table: newTable(maxConnections)}
	tracer, err := exporter.New(cfg.Exporter, exporter.Consumers{Logs: []consumer.Logs{f}}, logger)
	if err != nil {
		return err
	}
	err = show(ctx, out, tracer, newScreen(f, tracer.Stats, cfg.Filter, messages))
	stats, statsErr := tracer.Stats()
	if stats.Lost+stats.Unseen+stats.Malformed+stats.Corrupt+stats.Late+stats.Violations > 0 {
		logger.Warn("not everything was seen, or not in order",
			"lost", stats.Lost, "unseen", stats.Unseen, "malformed", stats.Malformed+stats.Corrupt,
			"late", stats.Late, "violations", stats.Violations)
	}
	return errors.Join(err, statsErr, tracer.Close())
}

// isTerminal leaves out the terminals that cannot move their cursor.
func isTerminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil && os.Getenv("TERM") != "dumb"
}

// runner is the tracer, as far as the screen is concerned.
type runner interface {
	Run(ctx context.Context) error
}

// show has the screen on the terminal while the tracer runs: the end of one is that of the other.
func show(ctx context.Context, out *os.File, tracer runner, s *screen) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	program := tea.NewProgram(s, tea.WithOutput(out), tea.WithoutSignalHandler())
	var group sync.WaitGroup
	var traceErr error
	group.Go(func() {
		defer func() {
			if p := recover(); p != nil {
				program.Kill() // gives the terminal back
				panic(p)
			}
		}()
		traceErr = tracer.Run(ctx)
		stop()
	})
	group.Go(func() { drive(ctx, program) })
	_, err := program.Run()
	stop()
	group.Wait()
	if err != nil {
		err = fmt.Errorf("running the screen: %w", err)
	}
	return errors.Join(err, s.err, traceErr)
}

// drive sends a tick at once, then one every lookEvery, until ctx ends: then it ends the program.
func drive(ctx context.Context, program *tea.Program) {
	ticker := time.NewTicker(lookEvery)
	defer ticker.Stop()
	program.Send(tick(time.Now()))
	for {
		select {
		case <-ctx.Done():
			program.Quit()
			return
		case now := <-ticker.C:
			program.Send(tick(now))
		}
	}
}

// feed is the consumer at the end of the stream. What reads the kernel's rings calls it: it waits for
// nothing but a copy of the table being made.
type feed struct {
	mu    sync.Mutex
	table *table
}

var _ consumer.Logs = (*feed)(nil)

// Capabilities says that the data is not changed.
func (f *feed) Capabilities() consumer.Capabilities { return consumer.Capabilities{} }

// ConsumeLogs takes what has happened into the table.
func (f *feed) ConsumeLogs(_ context.Context, ld plog.Logs) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.table.apply(ld)
	return nil
}

// copy appends what the table has at time now to all.
func (f *feed) copy(now time.Time, all []connection) (_ []connection, full bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.table.expire(now)
	return f.table.appendTo(all), f.table.full()
}
