package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// snippet is YAML that a page shows.
type snippet struct {
	page string
	line int
	text string
}

var (
	// yamlBlock is a fenced block, also in a list.
	yamlBlock = regexp.MustCompile("(?ms)^([ \t]*)```ya?ml\n(.*?)^[ \t]*```$")
	// hereDocument begins what a command of the page writes into a file: cat >FILE.yaml <<'END'.
	hereDocument = regexp.MustCompile(`(?m)^cat [^\n]*\.ya?ml[^\n]*<<'?(\w+)'?[^\n]*\n`)
)

// snippets gives all YAML of a page.
func snippets(page, text string) (all []snippet) {
	for _, m := range yamlBlock.FindAllStringSubmatchIndex(text, -1) {
		indent := text[m[2]:m[3]]
		all = append(all, snippet{page, lineAt(text, m[0]), regexp.MustCompile("(?m)^"+indent).ReplaceAllString(text[m[4]:m[5]], "")})
	}
	for _, m := range hereDocument.FindAllStringSubmatchIndex(text, -1) {
		document, _, _ := strings.Cut(text[m[1]:], "\n"+text[m[2]:m[3]]+"\n")
		all = append(all, snippet{page, lineAt(text, m[0]), document})
	}
	return all
}

func lineAt(text string, at int) int { return 1 + strings.Count(text[:at], "\n") }

// pages are those that show configurations.
func pages(t *testing.T) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(".", func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && path != "." && strings.HasPrefix(entry.Name(), "."):
			return filepath.SkipDir
		case entry.Name() != "README.md" && path != "ARCHITECTURE.md" && filepath.Dir(path) != "docs":
			return nil
		}
		text, err := os.ReadFile(path)
		all[path] = string(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// TestDocumentedConfigurations: what the pages show can be used as it stands. A Collector's configuration
// or manifest, known by its receivers or its service, is YAML; all else connspan takes.
func TestDocumentedConfigurations(t *testing.T) {
	found := 0
	for page, text := range pages(t) {
		for _, s := range snippets(page, text) {
			found++
			t.Run(fmt.Sprintf("%s line %d", s.page, s.line), func(t *testing.T) {
				top, err := topLevel(s.text)
				if err != nil {
					t.Fatalf("%v:\n%s", err, s.text)
				}
				if slices.Contains(top, "receivers") || slices.Contains(top, "service") {
					return
				}
				if _, err := validate(t, s.text); err != nil {
					t.Errorf("%v:\n%s", err, s.text)
				}
			})
		}
	}
	if found == 0 {
		t.Error("no YAML in any page")
	}
}

// topLevel gives the keys of each document, none of which says anything twice.
func topLevel(text string) (keys []string, err error) {
	for documents := yaml.NewDecoder(strings.NewReader(text)); ; {
		var document map[string]any
		if err := documents.Decode(&document); errors.Is(err, io.EOF) {
			return keys, nil
		} else if err != nil {
			return nil, err
		}
		keys = slices.AppendSeq(keys, maps.Keys(document))
	}
}

// validate has connspan say what it makes of a configuration.
func validate(t *testing.T, text string) (map[string]any, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "connspan.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), mustBinary(t), "validate", "--config", file)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%w: %s", err, stderr.String())
	}
	var resolved map[string]any
	return resolved, yaml.Unmarshal(out, &resolved)
}

// TestDocumentedKeys: the table of the configuration has each key that there is, and no other. Of the
// exporters it has what it has: their keys are those of the Collector.
func TestDocumentedKeys(t *testing.T) {
	text, err := os.ReadFile("ARCHITECTURE.md")
	if err != nil {
		t.Fatal(err)
	}
	resolved, err := validate(t, "")
	if err != nil {
		t.Fatal(err)
	}
	delete(resolved, "exporters")
	keys, table := paths("", resolved), tableKeys(string(text))
	for _, key := range keys {
		if !slices.Contains(table, key) {
			t.Errorf("%s is a key, and is not in the table", key)
		}
	}
	for i, key := range table {
		if !slices.Contains(keys, key) || slices.Contains(table[:i], key) {
			t.Errorf("%s is in the table, and is no key, or is there twice", key)
		}
	}
}

// paths gives the keys that have a value, as a.b.c, in order.
func paths(prefix string, section map[string]any) (all []string) {
	for key, value := range section {
		if below, ok := value.(map[string]any); ok && len(below) > 0 {
			all = append(all, paths(prefix+key+".", below)...)
		} else {
			all = append(all, prefix+key)
		}
	}
	slices.Sort(all)
	return all
}

var keyRow = regexp.MustCompile("(?m)^\\| `([a-z0-9_.]+)` \\|")

// tableKeys gives the keys of the table below the heading, but for those of exporters, in order.
func tableKeys(text string) (all []string) {
	_, section, _ := strings.Cut(text, "\n## Configuration\n")
	section, _, _ = strings.Cut(section, "\n## ")
	for _, m := range keyRow.FindAllStringSubmatch(section, -1) {
		if !strings.HasPrefix(m[1], "exporters.") {
			all = append(all, m[1])
		}
	}
	slices.Sort(all)
	return all
}
