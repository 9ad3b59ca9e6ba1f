package agent

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/exporter/exporterhelper"
	"go.yaml.in/yaml/v3"

	"github.com/connspan/connspan/exporter"
	"github.com/connspan/connspan/internal/agent/storage"
	"github.com/connspan/connspan/internal/telemetry"
)

// config is the whole configuration file.
type config struct {
	Exporter exporter.Config `mapstructure:",squash"`
	// Exporters are where the signals go; the console when none is given.
	Exporters map[component.ID]component.Config `mapstructure:"exporters"`
	Storage   storageConfig                     `mapstructure:"storage"`
	Telemetry telemetry.Config                  `mapstructure:"telemetry"`
}

// storageConfig is about the files that the exporters' queues are kept in.
type storageConfig struct {
	// Directory is where they are, an absolute path; it is created with mode 0700. Empty: the queues are
	// memory, and what they hold ends with the process.
	Directory string `mapstructure:"directory"`
	// MaxSize bounds the octets of all queues together. When they are full the newest is refused.
	MaxSize exporter.Size `mapstructure:"max_size"`
}

// storedItems bounds the items of a queue that is in files, unless its own configuration does: what
// bounds it is to be storage::max_size.
const storedItems = 10_000_000

// itemOctets is what an item of a batch has, about, in protobuf.
const itemOctets = 2048

func newDefaultConfig() *config {
	return &config{
		Exporter:  exporter.NewDefaultConfig(),
		Storage:   storageConfig{MaxSize: 512 << 20},
		Telemetry: telemetry.NewDefaultConfig(),
	}
}

// load reads the configuration in file. An empty name stands for an empty file, but for the telemetry,
// which is served nowhere: who looks at connections in a terminal is in the way of no other program.
// The error is a usageError. Warnings go to stderr.
func load(file string, stderr io.Writer) (*config, error) {
	conf := confmap.New()
	if file != "" {
		var err error
		if conf, err = read(file, newLogger("warn", stderr)); err != nil {
			return nil, usageError{err}
		}
	}
	cfg, err := decode(conf)
	if err != nil {
		return nil, usageError{fmt.Errorf("%s: %w", file, err)}
	}
	if file == "" {
		cfg.Telemetry.Address = ""
	}
	return cfg, nil
}

// decode is strict at every level, which confmap is not where sections are squashed into one another,
// and takes no number for what has a unit or is whole. Each kind of mistake is looked for only when
// there is none of the one before.
func decode(conf *confmap.Conf) (*config, error) {
	given := conf.ToStringMap()
	cfg := newDefaultConfig()
	if err := errors.Join(unknownKeys(given, reflect.TypeFor[config](), "")...); err != nil {
		return nil, err
	}
	sections, err := conf.Sub("exporters")
	if err != nil {
		return nil, fmt.Errorf("exporters: %v, want a section for each exporter", conf.Get("exporters"))
	}
	conf.Delete("exporters")
	if err := explain(conf.Unmarshal(cfg), conf, ""); err != nil {
		return nil, err
	}
	if err := cfg.decodeExporters(sections); err != nil {
		return nil, err
	}
	resolved := cfg.resolve()
	if err := errors.Join(append(wrongNumbers(given, resolved), missingExtensions(resolved)...)...); err != nil {
		return nil, err
	}
	return cfg, cfg.validate()
}

// decodeExporters decodes each section of exporters over the defaults of its type.
func (c *config) decodeExporters(sections *confmap.Conf) error {
	c.Exporters = make(map[component.ID]component.Config)
	given := sections.ToStringMap()
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(given)) {
		errs = append(errs, c.decodeExporter(name, given[name], sections))
	}
	if len(given) == 0 {
		c.Exporters[component.NewID(typeConsole)] = kinds[typeConsole].defaults()
	}
	return errors.Join(errs...)
}

func (c *config) decodeExporter(name string, given any, sections *confmap.Conf) error {
	path := "exporters::" + name
	var id component.ID
	if err := id.UnmarshalText([]byte(name)); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	kind, ok := kinds[id.Type()]
	if !ok {
		return fmt.Errorf("%s: unknown type, want otlp, otlphttp or console", path)
	}
	if _, ok := c.Exporters[id]; ok {
		return fmt.Errorf("%s: given twice", path)
	}
	section, err := sections.Sub(name)
	if err != nil {
		return fmt.Errorf("%s: %v, want a section", path, given)
	}
	cfg := kind.defaults()
	if queue := queueOf(cfg); queue != nil && c.Storage.Directory != "" {
		queue.Get().QueueSize = storedItems
	}
	if err := errors.Join(unknownKeys(given, reflect.TypeOf(cfg), path)...); err != nil {
		return err
	}
	if err := explain(section.Unmarshal(cfg), section, path); err != nil {
		return err
	}
	c.Exporters[id] = cfg
	return nil
}

func (c *config) validate() error {
	errs := []error{c.Exporter.Validate(), c.Storage.validate(), c.Telemetry.Validate()}
	for _, id := range c.exporterIDs() {
		path := "exporters::" + id.String()
		errs = append(errs, locate(confmap.Validate(c.Exporters[id]), path), blocking(c.Exporters[id], path), narrow(c.Exporters[id], path))
	}
	if c.Telemetry.Logs.OTLP && !slices.ContainsFunc(c.exporterIDs(), overOTLP) {
		errs = append(errs, errors.New("telemetry::logs::otlp: true, want an exporter that is otlp or otlphttp"))
	}
	return errors.Join(errs...)
}

func (c *storageConfig) validate() error {
	var errs []error
	if c.Directory != "" && !filepath.IsAbs(c.Directory) {
		errs = append(errs, fmt.Errorf("storage::directory: %q, want an absolute path, or none", c.Directory))
	}
	if c.MaxSize < storage.MinSize {
		size, _ := c.MaxSize.MarshalText()
		errs = append(errs, fmt.Errorf("storage::max_size: %s, want 16MiB or more", size))
	}
	return errors.Join(errs...)
}

// overOTLP tells the exporters that send over the network.
func overOTLP(id component.ID) bool { return id.Type() != typeConsole }

// blocking refuses the queues that make their exporter wait for its server: what feeds the exporters
// also reads the kernel's rings, which overflow when nobody does.
func blocking(cfg component.Config, path string) error {
	queues := queueOf(cfg)
	if queues == nil {
		return nil
	}
	queue := queues.Get()
	path += "::sending_queue::"
	switch {
	case queue == nil:
		return fmt.Errorf("%senabled: false, want true: without a queue the tracer waits for the server", path)
	case queue.WaitForResult:
		return fmt.Errorf("%swait_for_result: true, want false: the tracer would wait for the server", path)
	case queue.BlockOnOverflow:
		return fmt.Errorf("%sblock_on_overflow: true, want false: the tracer would wait for the server", path)
	}
	return nil
}

// narrow refuses the queues that a batch of the tracer may never fit into.
func narrow(cfg component.Config, path string) error {
	queues := queueOf(cfg)
	if queues == nil || queues.Get() == nil {
		return nil
	}
	queue := queues.Get()
	least := map[exporterhelper.RequestSizerType]int64{
		exporterhelper.RequestSizerTypeItems: exporter.MaxBatch,
		exporterhelper.RequestSizerTypeBytes: exporter.MaxBatch * itemOctets,
	}
	if want := least[queue.Sizer]; queue.QueueSize > 0 && queue.QueueSize < want {
		return fmt.Errorf("%s::sending_queue::queue_size: %d, want at least %d: a batch", path, queue.QueueSize, want)
	}
	return nil
}

// exporterIDs are in the order of their names.
func (c *config) exporterIDs() []component.ID {
	return slices.SortedFunc(maps.Keys(c.Exporters), func(a, b component.ID) int {
		return strings.Compare(a.String(), b.String())
	})
}

// resolve gives the configuration as it could be written in a file, defaults included, secrets not.
func (c *config) resolve() map[string]any {
	exporters := make(map[string]any)
	for id, cfg := range c.Exporters {
		exporters[id.String()] = resolve(reflect.ValueOf(cfg), reflect.ValueOf(kinds[id.Type()].defaults()))
	}
	all := *c
	all.Exporters = nil
	sections := resolve(reflect.ValueOf(all), reflect.ValueOf(*newDefaultConfig())).(map[string]any)
	sections["exporters"] = exporters
	return sections
}

// validate reads the configuration and prints it, resolved.
func validate(file string, stdout, stderr io.Writer) error {
	if file == "" {
		return usageError{errors.New("validate: --config FILE is missing; see connspan help")}
	}
	cfg, err := load(file, stderr)
	if err != nil {
		return err
	}
	encoder := yaml.NewEncoder(stdout)
	encoder.SetIndent(2)
	if err := encoder.Encode(cfg.resolve()); err != nil {
		return fmt.Errorf("printing the configuration: %w", err)
	}
	return encoder.Close()
}
