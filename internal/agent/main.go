package agent

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"runtime"
	"runtime/debug"
	"strings"
)

const help = `connspan reports every TCP connection of this host: opened, closed, failed.

Usage:
  connspan [run] [--config FILE] [--btf FILE]   trace and export until SIGINT or SIGTERM
  connspan watch [FILTER] [--config FILE] [--btf FILE]
                                                show the connections live, export nothing
  connspan check [--btf FILE]                   can this kernel and this user run it?
  connspan validate --config FILE               print the configuration with defaults, without secrets
  connspan version
  connspan help

  --config FILE   configuration, YAML; without one, text goes to stdout and nothing listens
  --btf FILE      types of the running kernel (BTF), for a kernel that does not carry them
  FILTER          words that all must match: any text of a connection, or one of
                  port:5432  local:ADDR  peer:ADDR  process:NAME  service:NAME  pid:NUMBER
                  state:opened|closed|failed  role:client|server|unknown
                  ADDR: 10.0.0.1, 10.0.0.0/8, 10.0.0.1:5432, [2001:db8::1]:5432 or :5432

watch fills a terminal with a table; its last line has the keys. To anything else it writes lines.
Data goes to stdout, messages to stderr.
Exit codes: 0 done, 1 could not run, 2 wrong usage or configuration.
`

// Exit codes.
const (
	exitDone  = 0
	exitRun   = 1
	exitUsage = 2
)

// usageError is what the user got wrong on the command line or in the configuration.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// errSaid ends the program with exitRun when stdout has said why.
var errSaid = errors.New("said on stdout")

// Main runs the program with the arguments that follow its name and returns its exit code. Data goes
// to stdout; messages go to stderr, among them, in one line, why the exit code is not 0. Both are
// written to by several goroutines, as an *os.File may be. version is as the build gives it; when it
// is empty, that of the main module is taken.
//
// While it traces, Main takes over SIGINT, SIGTERM and SIGPIPE; for a terminal, SIGHUP and SIGQUIT too.
func Main(version string, args []string, stdout, stderr io.Writer) int {
	err := dispatch(version, args, stdout, stderr)
	if err == nil || errors.Is(err, flag.ErrHelp) {
		return exitDone
	}
	if !errors.Is(err, errSaid) {
		_, _ = fmt.Fprintf(stderr, "connspan: %s\n", oneLine(err))
	}
	if errors.As(err, &usageError{}) {
		return exitUsage
	}
	return exitRun
}

func dispatch(version string, args []string, stdout, stderr io.Writer) error {
	name := "run"
	if len(args) > 0 && !strings.HasPrefix(args[0], "-") {
		name, args = args[0], args[1:]
	}
	var config, btf string
	switch name {
	case "run":
		if err := parse(stdout, name, args, option{"config", &config}, option{"btf", &btf}); err != nil {
			return err
		}
		return run(version, config, btf, stdout, stderr)
	case "watch":
		words, err := parseWords(stdout, name, args, option{"config", &config}, option{"btf", &btf})
		if err != nil {
			return err
		}
		return show(words, config, btf, stdout, stderr)
	case "check":
		if err := parse(stdout, name, args, option{"btf", &btf}); err != nil {
			return err
		}
		return check(btf, stdout)
	case "validate":
		if err := parse(stdout, name, args, option{"config", &config}); err != nil {
			return err
		}
		return validate(config, stdout, stderr)
	case "version":
		if err := parse(stdout, name, args); err != nil {
			return err
		}
		return printVersion(version, stdout)
	case "help":
		return printHelp(stdout)
	}
	return usageError{fmt.Errorf("unknown command %q, want run, watch, check, validate, version or help", name)}
}

// option is --name FILE.
type option struct {
	name string
	file *string
}

// parse sets the options. The error is flag.ErrHelp when help was asked for and given.
func parse(stdout io.Writer, command string, args []string, options ...option) error {
	words, err := parseWords(stdout, command, args, options...)
	if err == nil && len(words) > 0 {
		err = usageError{fmt.Errorf("%s: unexpected argument %q; see connspan help", command, words[0])}
	}
	return err
}

// parseWords is parse for a command that takes other arguments too, which may stand between options.
func parseWords(stdout io.Writer, command string, args []string, options ...option) (words []string, err error) {
	flags := flag.NewFlagSet(command, flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	for _, o := range options {
		flags.Func(o.name, "", func(file string) error {
			if file == "" {
				return errors.New("want a file")
			}
			*o.file = file
			return nil
		})
	}
	for err = flags.Parse(args); err == nil && flags.NArg() > 0; err = flags.Parse(flags.Args()[1:]) {
		words = append(words, flags.Arg(0))
	}
	switch {
	case errors.Is(err, flag.ErrHelp):
		if err := printHelp(stdout); err != nil {
			return nil, err
		}
		return nil, flag.ErrHelp
	case err != nil:
		return nil, usageError{fmt.Errorf("%s: %w; see connspan help", command, err)}
	}
	return words, nil
}

func printHelp(stdout io.Writer) error {
	_, err := io.WriteString(stdout, help)
	return err
}

func printVersion(version string, stdout io.Writer) error {
	_, err := fmt.Fprintf(stdout, "connspan %s %s/%s %s\n", versionOf(version), runtime.GOOS, runtime.GOARCH, runtime.Version())
	return err
}

func versionOf(build string) string {
	if build != "" {
		return build
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "unknown"
}

// oneLine puts the lines of joined errors behind each other.
func oneLine(err error) string {
	var lines []string
	for line := range strings.Lines(err.Error()) {
		if line = strings.TrimSpace(line); line != "" {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "; ")
}
