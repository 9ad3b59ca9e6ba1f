package agent

import (
	"encoding"
	"fmt"
	"maps"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.opentelemetry.io/collector/confmap"
)

// field is a key of a section, and where in the section's type its value is.
type field struct {
	key       string
	index     []int
	typ       reflect.Type
	omitEmpty bool
}

// fieldsOf gives the keys of a section of type t, those of squashed types included.
func fieldsOf(t reflect.Type) []field {
	var all []field
	for i := range t.NumField() {
		f := t.Field(i)
		key, options, _ := strings.Cut(f.Tag.Get(confmap.MapstructureTag), ",")
		switch {
		case !f.IsExported() || key == "-":
		case options == "squash":
			for _, inner := range fieldsOf(f.Type) {
				inner.index = append([]int{i}, inner.index...)
				all = append(all, inner)
			}
		default:
			all = append(all, field{key, []int{i}, f.Type, options == "omitempty"})
		}
	}
	return all
}

// optional is a configoptional.Optional of any type.
type optional interface{ HasValue() bool }

// optionalType is T of the configoptional.Optional[T] t.
func optionalType(t reflect.Type) (reflect.Type, bool) {
	if !t.Implements(reflect.TypeFor[optional]()) {
		return nil, false
	}
	get, _ := reflect.PointerTo(t).MethodByName("Get")
	return get.Type.Out(0).Elem(), true
}

// unknownKeys names each key in given, a value that is to become a t, that t has no place for.
func unknownKeys(given any, t reflect.Type, path string) []error {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	var errs []error
	switch given := given.(type) {
	case []any:
		if t.Kind() == reflect.Slice {
			for i, v := range given {
				errs = append(errs, unknownKeys(v, t.Elem(), join(path, strconv.Itoa(i)))...)
			}
		}
	case map[string]any:
		types := keysOf(t)
		if types == nil {
			return nil
		}
		for _, key := range slices.Sorted(maps.Keys(given)) {
			if typ, ok := types[key]; ok {
				errs = append(errs, unknownKeys(given[key], typ, join(path, key))...)
			} else {
				errs = append(errs, fmt.Errorf("%s: unknown key%s", join(path, key), wanted(slices.Sorted(maps.Keys(types)))))
			}
		}
	}
	return errs
}

// keysOf gives the keys of a section of type t; nil when they are free, or t is no section.
func keysOf(t reflect.Type) map[string]reflect.Type {
	keys := make(map[string]reflect.Type)
	if inner, ok := optionalType(t); ok {
		t = inner
		keys["enabled"] = reflect.TypeFor[bool]()
	}
	if t.Kind() != reflect.Struct || reflect.PointerTo(t).Implements(reflect.TypeFor[encoding.TextUnmarshaler]()) {
		return nil
	}
	for _, f := range fieldsOf(t) {
		keys[f.key] = f.typ
	}
	return keys
}

func join(path, key string) string {
	if path == "" || key == "" {
		return path + key
	}
	return path + confmap.KeyDelimiter + key
}

// wanted lists keys, unless there are so many that they would hide the mistake that they explain.
func wanted(keys []string) string {
	last := len(keys) - 1
	switch {
	case last < 0 || last >= 12:
		return ""
	case last == 0:
		return ", want " + keys[0]
	}
	return ", want " + strings.Join(keys[:last], ", ") + " or " + keys[last]
}

// resolve turns v into what could be decoded to it again, except for secrets, which are redacted. Keys
// that may be omitted are there when they or their default are not zero. It returns nil for what is
// not there.
//
// confmap's own Marshal is no way to do that: it omits a zero where the default is none, and loses
// which optional sections are switched off.
func resolve(v, byDefault reflect.Value) any {
	if text, ok := marshalText(v); ok {
		return text
	}
	if o, ok := v.Interface().(optional); ok {
		return resolveOptional(v, byDefault, o.HasValue())
	}
	switch v.Kind() {
	case reflect.Pointer:
		if v.IsNil() {
			return nil
		}
		if byDefault.IsNil() {
			byDefault = reflect.New(v.Type().Elem())
		}
		return resolve(v.Elem(), byDefault.Elem())
	case reflect.Struct:
		return resolveStruct(v, byDefault)
	case reflect.Map:
		section := make(map[string]any)
		for key, value := range v.Seq2() {
			section[key.String()] = resolve(value, reflect.Zero(value.Type()))
		}
		return section
	case reflect.Slice:
		list := make([]any, v.Len())
		for i := range list {
			list[i] = resolve(v.Index(i), reflect.Zero(v.Type().Elem()))
		}
		return list
	case reflect.String:
		return literal(v.String())
	}
	return v.Interface()
}

func resolveStruct(v, byDefault reflect.Value) map[string]any {
	section := make(map[string]any)
	for _, f := range fieldsOf(v.Type()) {
		value, otherwise := v.FieldByIndex(f.index), byDefault.FieldByIndex(f.index)
		if f.omitEmpty && value.IsZero() && otherwise.IsZero() {
			continue
		}
		if resolved := resolve(value, otherwise); resolved != nil {
			section[f.key] = resolved
		}
	}
	return section
}

func resolveOptional(v, byDefault reflect.Value, has bool) any {
	inner, _ := optionalType(v.Type())
	otherwise := reflect.New(inner)
	if byDefault.Interface().(optional).HasValue() {
		otherwise = valueOf(byDefault)
	} else if !has {
		return nil
	}
	if !has {
		return map[string]any{"enabled": false}
	}
	return resolve(valueOf(v).Elem(), otherwise.Elem())
}

// valueOf calls Get of a configoptional.Optional.
func valueOf(optional reflect.Value) reflect.Value {
	p := reflect.New(optional.Type())
	p.Elem().Set(optional)
	return p.MethodByName("Get").Call(nil)[0]
}

// marshalText uses v's own text, which is what redacts secrets.
func marshalText(v reflect.Value) (string, bool) {
	if v.Kind() == reflect.Pointer {
		return "", false
	}
	p := reflect.New(v.Type())
	p.Elem().Set(v)
	m, ok := p.Interface().(encoding.TextMarshaler)
	if !ok {
		return "", false
	}
	text, err := m.MarshalText()
	return literal(string(text)), err == nil
}

// literal writes a string so that nothing in it will be expanded, and without the password of a URL.
func literal(s string) string {
	return strings.ReplaceAll(redact(s), "$", "$$")
}

// redact takes the password out of a URL.
func redact(s string) string {
	if u, err := url.Parse(s); err == nil && u.User != nil {
		return u.Redacted()
	}
	return s
}

// wrongNumbers finds numbers that confmap takes though they cannot be meant: 20 for a duration would
// be nanoseconds, and of 1.5 for a whole number half would be lost.
func wrongNumbers(given, resolved map[string]any) []error {
	flat, want := confmap.NewFromStringMap(given), confmap.NewFromStringMap(resolved)
	var errs []error
	for _, key := range flat.AllKeys() {
		value := reflect.ValueOf(flat.Get(key))
		if !value.IsValid() || !value.CanInt() && !value.CanFloat() || value.IsZero() {
			continue
		}
		switch want.Get(key).(type) {
		case time.Duration:
			errs = append(errs, fmt.Errorf("%s: %v, want a duration with its unit, as in 20us", key, value))
		case float64, float32:
		default:
			if value.CanFloat() {
				errs = append(errs, fmt.Errorf("%s: %v, want a whole number", key, value))
			}
		}
	}
	return errs
}

// missingExtensions finds what a Collector would look for among its extensions.
func missingExtensions(resolved map[string]any) []error {
	conf := confmap.NewFromStringMap(resolved["exporters"].(map[string]any))
	var errs []error
	for _, id := range slices.Sorted(maps.Keys(resolved["exporters"].(map[string]any))) {
		for _, key := range []string{"auth", "middlewares", "sending_queue::storage"} {
			if path := join(id, key); conf.IsSet(path) {
				errs = append(errs, fmt.Errorf("exporters::%s: names an extension, and there are none", path))
			}
		}
	}
	return errs
}
