package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/confmap/provider/envprovider"
	"go.uber.org/zap"
	"go.yaml.in/yaml/v3"
)

// maxConfig bounds the octets of a configuration, with all the files that it names.
const maxConfig = 1 << 20

// read reads a configuration file and expands ${env:NAME} and ${file:PATH}. logger hears of variables
// that are not set.
func read(file string, logger *zap.Logger) (*confmap.Conf, error) {
	files := &fileProvider{left: maxConfig}
	resolver, err := confmap.NewResolver(confmap.ResolverSettings{
		URIs: []string{"file:" + file},
		ProviderFactories: []confmap.ProviderFactory{
			confmap.NewProviderFactory(func(confmap.ProviderSettings) confmap.Provider { return files }),
			envprovider.NewFactory(),
		},
		ProviderSettings: confmap.ProviderSettings{Logger: logger},
		DefaultScheme:    "env",
	})
	if err != nil {
		return nil, err
	}
	conf, err := resolver.Resolve(context.Background())
	if files.err != nil {
		return nil, files.err
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return conf, nil
}

// fileProvider reads files as confmap's own provider does, with these differences: what it reads is
// bounded; the first file, which is the configuration, must be sections in YAML; and what is read for
// ${file:PATH} loses the line ends behind it, since a token in a file has one that is not its own.
type fileProvider struct {
	left  int // octets that may still be read
	begun bool
	err   error // of the first file
}

var _ confmap.Provider = (*fileProvider)(nil)

func (p *fileProvider) Retrieve(_ context.Context, uri string, _ confmap.WatcherFunc) (*confmap.Retrieved, error) {
	path := strings.TrimPrefix(uri, "file:")
	if !p.begun {
		p.begun = true
		var sections map[string]any
		sections, p.err = p.readSections(path)
		return confmap.NewRetrieved(sections)
	}
	content, err := p.readFile(path)
	if err != nil {
		return nil, err
	}
	return confmap.NewRetrievedFromYAML(bytes.TrimRight(content, "\r\n"))
}

func (*fileProvider) Scheme() string                 { return "file" }
func (*fileProvider) Shutdown(context.Context) error { return nil }

func (p *fileProvider) readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	content, err := io.ReadAll(io.LimitReader(f, int64(p.left)+1))
	if err != nil {
		return nil, err
	}
	if len(content) > p.left {
		return nil, fmt.Errorf("read %s: the configuration is larger than %d octets", path, maxConfig)
	}
	p.left -= len(content)
	return content, nil
}

func (p *fileProvider) readSections(path string) (map[string]any, error) {
	content, err := p.readFile(path)
	if err != nil {
		return nil, err
	}
	sections, err := parseSections(content)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return sections, nil
}

// parseSections takes one YAML document; none is no sections.
func parseSections(content []byte) (map[string]any, error) {
	decoder := yaml.NewDecoder(bytes.NewReader(content))
	var document any
	var wrong *yaml.TypeError
	switch err := decoder.Decode(&document); {
	case errors.As(err, &wrong):
		return nil, errors.New(strings.Join(wrong.Errors, "\n"))
	case err != nil && !errors.Is(err, io.EOF):
		return nil, err
	}
	if err := decoder.Decode(new(any)); !errors.Is(err, io.EOF) {
		return nil, errors.New("more than one YAML document, want one")
	}
	sections, ok := document.(map[string]any)
	if !ok && document != nil {
		return nil, errors.New("want sections with keys and values")
	}
	return sections, nil
}
