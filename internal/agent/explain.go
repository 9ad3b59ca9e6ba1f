package agent

import (
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-viper/mapstructure/v2"
	"go.opentelemetry.io/collector/config/configopaque"
	"go.opentelemetry.io/collector/confmap"
)

// explain names, for each mistake that confmap found in conf, the whole key, the value and what was
// expected. path is where conf itself is.
func explain(err error, conf *confmap.Conf, path string) error {
	if err == nil {
		return nil
	}
	var errs []error
	for _, m := range mistakes(err, "") {
		errs = append(errs, fmt.Errorf("%s: %s", join(path, m.path), m.text(lookUp(conf.ToStringMap(), m.path))))
	}
	return errors.Join(errs...)
}

// lookUp gives what is at a path, also in a list; nil where nothing is.
func lookUp(value any, path string) any {
	for _, key := range strings.Split(path, confmap.KeyDelimiter) {
		switch in := value.(type) {
		case map[string]any:
			value = in[key]
		case []any:
			i, err := strconv.Atoi(key)
			if err != nil || i < 0 || i >= len(in) {
				return nil
			}
			value = in[i]
		default:
			return nil
		}
	}
	return value
}

// mistake is an error of mapstructure, the library below confmap, and the key that it is about.
type mistake struct {
	path string
	err  error
}

// mistakes unpacks errors that confmap nests as it nests the decoding of sections.
func mistakes(err error, path string) []mistake {
	if joined, ok := err.(interface{ Unwrap() []error }); ok { //nolint:errorlint // one level at a time
		var all []mistake
		for _, err := range joined.Unwrap() {
			all = append(all, mistakes(err, path)...)
		}
		return all
	}
	if decode, ok := err.(*mapstructure.DecodeError); ok { //nolint:errorlint // one level at a time
		return mistakes(decode.Unwrap(), join(path, keys(decode.Name())))
	}
	if errors.As(err, new(*mapstructure.DecodeError)) {
		return mistakes(errors.Unwrap(err), path)
	}
	return []mistake{{path, err}}
}

var subscript = regexp.MustCompile(`\[([^\]]*)\]`)

// keys turns mapstructure's a.b[c.d] into a::b::c.d.
func keys(name string) string {
	var path strings.Builder
	for name != "" {
		at := subscript.FindStringSubmatchIndex(name)
		if at == nil {
			at = []int{len(name), len(name), len(name), len(name)}
		}
		path.WriteString(strings.ReplaceAll(name[:at[0]], ".", confmap.KeyDelimiter))
		if at[2] < at[3] {
			path.WriteString(confmap.KeyDelimiter + name[at[2]:at[3]])
		}
		name = name[at[1]:]
	}
	return strings.TrimPrefix(path.String(), confmap.KeyDelimiter)
}

func (m mistake) text(value any) string {
	var wrong *mapstructure.UnconvertibleTypeError
	if errors.As(m.err, &wrong) {
		return mismatch(wrong.Value, wrong.Expected.Type())
	}
	text := m.err.Error()
	switch {
	case strings.HasPrefix(text, "expected a map"):
		return fmt.Sprintf("%v, want a section", value)
	case strings.HasPrefix(text, "source data must be an array"):
		return fmt.Sprintf("%v, want a list", value)
	case strings.HasPrefix(text, "time: "):
		return fmt.Sprintf("%q, want a duration with its unit, as in 20us", value)
	}
	return text
}

// mismatch says nothing of a value that might be a secret.
func mismatch(value any, want reflect.Type) string {
	var what string
	switch {
	case want == reflect.TypeFor[time.Duration]():
		what = "a duration with its unit, as in 20us"
	case want.Kind() == reflect.String:
		what = "text (in quotes)"
	case want.Kind() == reflect.Bool:
		what = "true or false"
	case reflect.Zero(want).CanInt() || reflect.Zero(want).CanUint():
		what = "a whole number"
	case reflect.Zero(want).CanFloat():
		what = "a number"
	case want.Kind() == reflect.Slice:
		what = "a list"
	default:
		what = "a section"
	}
	if want == reflect.TypeFor[configopaque.String]() {
		return fmt.Sprintf("a value of type %T, want %s", value, what)
	}
	if text, ok := value.(string); ok {
		return fmt.Sprintf("%q, want %s", text, what)
	}
	return fmt.Sprintf("%v, want %s", value, what)
}

var keyPath = regexp.MustCompile(`^[a-z0-9_]+(::[^:\s]+)*: `)

// locate puts path before each error of confmap.Validate, which asks some types twice, and counts
// squashed types as keys; their names, unlike those of keys, end in config.
func locate(err error, path string) error {
	if err == nil {
		return nil
	}
	var located []string
	for line := range strings.Lines(err.Error()) {
		at := path
		if found := keyPath.FindString(line); found != "" {
			line = line[len(found):]
			for _, key := range strings.Split(strings.TrimSuffix(found, ": "), confmap.KeyDelimiter) {
				if !strings.HasSuffix(key, "config") {
					at = join(at, key)
				}
			}
		}
		if text := at + ": " + strings.TrimSpace(line); !slices.Contains(located, text) {
			located = append(located, text)
		}
	}
	return errors.New(strings.Join(located, "\n"))
}
