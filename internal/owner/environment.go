package owner

import (
	"net/url"
	"strings"
)

const (
	serviceName        = "OTEL_SERVICE_NAME="
	resourceAttributes = "OTEL_RESOURCE_ATTRIBUTES="
)

// Bounds of what a process may say of itself, in octets: its environment that is looked through, the
// name and the value of an attribute, and all of them.
const (
	maxEnvironment = 256 << 10
	maxKey         = 255
	maxValue       = 1024
	maxAttributes  = 4096
)

// attributes reads a /proc/PID/environ. Of a variable that is there twice the first counts, as for getenv.
func attributes(environ string) map[string]string {
	var name, text string
	for variable := range strings.SplitSeq(environ, "\x00") {
		if v, ok := strings.CutPrefix(variable, resourceAttributes); ok && text == "" {
			text = v
		} else if v, ok := strings.CutPrefix(variable, serviceName); ok && name == "" {
			name = v
		}
	}
	if name == "" && text == "" {
		return nil
	}
	found := parseAttributes(text)
	if name != "" {
		found["service.name"] = cut(name, maxValue)
	}
	return found
}

// parseAttributes reads key=value,key=value with values that are percent-encoded, as the
// specification of the Resource SDK has it. What is not of this form is left out.
func parseAttributes(text string) map[string]string {
	found, total := map[string]string{}, 0
	for pair := range strings.SplitSeq(text, ",") {
		key, value, ok := strings.Cut(pair, "=")
		key, value = strings.TrimSpace(key), strings.TrimSpace(value)
		if !ok || key == "" || len(key) > maxKey {
			continue
		}
		if plain, err := url.PathUnescape(value); err == nil {
			value = plain
		}
		value = cut(value, maxValue)
		if total += len(key) + len(value); total > maxAttributes {
			break
		}
		if value != "" {
			found[strings.Clone(key)] = value
		}
	}
	return found
}

// cut gives at most n octets of s, and keeps nothing else of it.
func cut(s string, n int) string { return strings.Clone(s[:min(len(s), n)]) }
