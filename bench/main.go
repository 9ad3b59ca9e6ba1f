// Bench measures what connspan costs: beside other tracers, at the size of large hosts, while nothing
// happens, and how long a record is on its way. It needs root.
//
//	go run ./bench [flags] peers|scale|idle|latency...
//
// Each measurement prints its tables; with -page it also writes them into that document, and its plots
// beside it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// settings are what the flags say.
type settings struct {
	connspan    string
	page        string
	rounds      int
	window      time.Duration
	rate        int
	payload     int
	compression string
	open        int
	rest        time.Duration
}

// measurements are by the name of their section of the page.
var measurements = map[string]func(context.Context, settings) (string, error){
	"peers":   measurePeers,
	"scale":   measureScale,
	"idle":    measureIdle,
	"latency": measureLatency,
}

// roles are what this program is as a child of its own.
var roles = map[string]func() error{
	"client": runClient,
	"server": runServer,
	"pair":   runPair,
	"holder": runHolder,
	"sink":   runSink,
}

func main() {
	do := measure
	if role := roles[os.Getenv(roleEnv)]; role != nil {
		do = role
	}
	if err := do(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// measure does what the arguments say.
func measure() error {
	var s settings
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.StringVar(&s.connspan, "connspan", "bin/connspan", "the `program` to measure")
	flags.StringVar(&s.page, "page", "", "the `document` to write the tables into")
	flags.IntVar(&s.rounds, "rounds", 5, "how often peers measures each tracer")
	flags.DurationVar(&s.window, "window", 2*time.Second, "how long each measurement under load takes")
	flags.IntVar(&s.rate, "rate", 10_000, "connections a second, where the rate is fixed")
	flags.IntVar(&s.payload, "payload", 64, "octets of request and of reply; 0: connect and close")
	flags.StringVar(&s.compression, "compression", "", "of what connspan ships; empty: its default")
	flags.IntVar(&s.open, "open", 100_000, "the most ends of connections that scale holds open")
	flags.DurationVar(&s.rest, "rest", 30*time.Second, "how long idle looks at a machine at rest")
	if err := flags.Parse(os.Args[1:]); errors.Is(err, flag.ErrHelp) {
		return nil
	} else if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	return measureAll(ctx, s, flags.Args())
}

func measureAll(ctx context.Context, s settings, names []string) error {
	if os.Geteuid() != 0 {
		return errors.New("not root, which BPF and network namespaces need")
	}
	if len(names) == 0 {
		return errors.New("nothing to measure: want some of peers, scale, idle, latency")
	}
	for _, name := range names {
		measure := measurements[name]
		if measure == nil {
			return fmt.Errorf("measuring %q: want peers, scale, idle or latency", name)
		}
		text, err := measure(ctx, s)
		if err != nil {
			return fmt.Errorf("measuring %s: %w", name, err)
		}
		text = host() + "\n" + strings.TrimSpace(text) + "\n"
		fmt.Println(text)
		if s.page != "" {
			if err := writeSection(s.page, name, text); err != nil {
				return err
			}
		}
	}
	return nil
}

// progress is for whoever waits.
func progress(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }
