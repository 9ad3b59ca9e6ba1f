package agent

import (
	"fmt"
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/config/confighttp"
	"go.yaml.in/yaml/v3"

	"github.com/connspan/connspan/exporter/otlp"
)

const durationWanted = "want a duration with its unit, as in 20us"

func TestWrongConfiguration(t *testing.T) {
	const bomb = "a: &a [x, x, x, x, x, x, x, x, x]\nb: &b [*a, *a, *a, *a, *a, *a, *a, *a, *a]\n" +
		"c: &c [*b, *b, *b, *b, *b, *b, *b, *b, *b]\nd: &d [*c, *c, *c, *c, *c, *c, *c, *c, *c]\n" +
		"e: &e [*d, *d, *d, *d, *d, *d, *d, *d, *d]\nf: &f [*e, *e, *e, *e, *e, *e, *e, *e, *e]\n" +
		"g: &g [*f, *f, *f, *f, *f, *f, *f, *f, *f]\nh: [*g, *g, *g, *g, *g, *g, *g, *g, *g]\n"
	for _, test := range []struct{ config, want string }{
		// The file.
		{"tracer: {guard: 1us", `yaml: line 1: did not find expected ',' or '}'`},
		{"- tracer", "want sections with keys and values"},
		{"text", "want sections with keys and values"},
		{"logs: {}\n---\ntracer: {}", "more than one YAML document, want one"},
		{"logs: {}\ntracer: {}\nlogs: {}", `line 3: mapping key "logs" already defined at line 1`},
		{bomb, "yaml: document contains excessive aliasing"},
		{"tracer: {guard: '${env:NOT A NAME}'}", `environment variable "NOT A NAME" has invalid name: must match regex ^[a-zA-Z_][a-zA-Z0-9_]*$`},
		{"tracer: {guard: '${http://localhost}'}", `scheme "http" is not supported for uri "http://localhost"`},
		{"tracer: {guard: '${file:/nonexistent}'}", "open /nonexistent: no such file or directory"},

		// Keys.
		{"foo: 1", "foo: unknown key, want exporters, filter, logs, metrics, resource, storage, telemetry, tracer or traces"},
		{"metrics: {period: 15s}\nstorage: {dir: /x}", "metrics::period: unknown key, want attributes, expire_after, histogram, interval, max_series or temporality; storage::dir: unknown key, want directory or max_size"},
		{"tracer: {gard: 1us}\nlogs: {event: []}", "logs::event: unknown key, want events, heartbeat or legacy_event_name; tracer::gard: unknown key, want audit, guard, interval, max_hold, max_pending or ring_size"},
		{"tracer: {1: 2}", "tracer::1: unknown key, want audit, guard, interval, max_hold, max_pending or ring_size"},
		{"tracer: {Guard: 1us}", "tracer::Guard: unknown key, want audit, guard, interval, max_hold, max_pending or ring_size"},
		{"telemetry: {port: 9464}", "telemetry::port: unknown key, want address or logs"},
		{"exporters: {otlphttp: {endpoint: 'http://x', tls: {insecur: true}}}", "exporters::otlphttp::tls::insecur: unknown key"},
		{"exporters: {otlp: {headers: [{name: a, valu: b}]}}", "exporters::otlp::headers::0::valu: unknown key, want name or value"},

		{"filter: [{exlude: {port: [22]}}]", "filter::0::exlude: unknown key, want exclude or include"},
		{"filter: [{include: {port: [22]}}, {exclude: {ports: [22], pid: [1]}}]", "filter::1::exclude::pid: unknown key, want cidr, container, executable, netns, port, role or service; filter::1::exclude::ports: unknown key, want cidr, container, executable, netns, port, role or service"},

		// Queues that make the tracer wait.
		{"exporters: {otlp: {endpoint: 'x:1', sending_queue: {enabled: false}}}", "exporters::otlp::sending_queue::enabled: false, want true: without a queue the tracer waits for the server"},
		{"exporters: {otlphttp: {endpoint: 'http://x', sending_queue: {wait_for_result: true}}}", "exporters::otlphttp::sending_queue::wait_for_result: true, want false: the tracer would wait for the server"},
		{"exporters: {otlp: {endpoint: 'x:1', sending_queue: {block_on_overflow: true}}}", "exporters::otlp::sending_queue::block_on_overflow: true, want false: the tracer would wait for the server"},

		// Types.
		{"tracer: 5", "tracer: 5, want a section"},
		{"tracer: [guard]", "tracer: [guard], want a section"},
		{"tracer: {max_pending: '5000'}", `tracer::max_pending: "5000", want a whole number`},
		{"tracer: {max_pending: 1000.5}", "tracer::max_pending: 1000.5, want a whole number"},
		{"tracer: {ring_size: 65536.5}", "tracer::ring_size: 65536.5, want a whole number"},
		{"tracer: {ring_size: 5Q}", `tracer::ring_size: size "5Q": want auto, or a number with KiB, MiB, GiB or no unit`},
		{"tracer: {guard: 20}", "tracer::guard: 20, " + durationWanted},
		{"tracer: {guard: 20 microseconds}", `tracer::guard: "20 microseconds", ` + durationWanted},
		{"tracer: {guard: [20us], interval: true}", "tracer::interval: true, " + durationWanted + "; tracer::guard: [20us], " + durationWanted},
		{"logs: {events: 5}", "logs::events: 5, want a list"},
		{"logs: {heartbeat: 30}", "logs::heartbeat: 30, " + durationWanted},
		{"filter: {exclude: {port: [22]}}", "filter: map[exclude:map[port:[22]]], want a list"},
		{"filter: [exclude]", "filter::0: exclude, want a section"},
		{"filter: [{exclude: [22]}]", "filter::0::exclude: [22], want a section"},
		{"filter: [{exclude: {port: 22}}]", "filter::0::exclude::port: 22, want a list"},
		{"filter: [{exclude: {port: ['22']}}]", `filter::0::exclude::port::0: "22", want a whole number`},
		{"filter: [{exclude: {executable: [22]}}]", "filter::0::exclude::executable::0: 22, want text (in quotes)"},
		{"filter: [{exclude: {netns: [[22]]}}]", "filter::0::exclude::netns::0: [22], want text (in quotes)"},
		{"metrics: {max_series: many}", `metrics::max_series: "many", want a whole number`},
		{"traces: {sample_ratio: all}", `traces::sample_ratio: "all", want a number`},
		{"storage: /var/lib/connspan", "storage: /var/lib/connspan, want a section"},
		{"storage: {max_size: 1TB}", `storage::max_size: size "1TB": want auto, or a number with KiB, MiB, GiB or no unit`},
		{"resource: {attributes: [a]}", "resource::attributes: [a], want a section"},
		{"resource: {attributes: {a.b: 5}}", "resource::attributes::a.b: 5, want text (in quotes)"},
		{"telemetry: {logs: {level: 5}}", "telemetry::logs::level: 5, want text (in quotes)"},
		{"exporters: {otlp: {tls: {insecure: 'yes'}}}", `exporters::otlp::tls::insecure: "yes", want true or false`},
		{"exporters: {otlp: {headers: {token: 123456}}}", "exporters::otlp::headers::token: a value of type int, want text (in quotes)"},
		{"exporters: {otlp: {timeout: 10, retry_on_failure: {max_interval: 2}}}", "exporters::otlp::retry_on_failure::max_interval: 2, " + durationWanted + "; exporters::otlp::timeout: 10, " + durationWanted},
		{"exporters: {otlp: {sending_queue: {queue_size: x, batch: {sizer: y}}}}", `exporters::otlp::sending_queue::queue_size: "x", want a whole number; exporters::otlp::sending_queue::batch::sizer: invalid sizer: "y"`},

		// Exporters.
		{"exporters: console", "exporters: console, want a section for each exporter"},
		{"exporters: [console]", "exporters: [console], want a section for each exporter"},
		{"exporters: {console: text}", "exporters::console: text, want a section"},
		{"exporters: {kafka: {}}", "exporters::kafka: unknown type, want otlp, otlphttp or console"},
		{"exporters: {otlp/: {}}", `exporters::otlp/: in "otlp/" id: the part after / should not be empty`},
		{"exporters: {otlp/a: {endpoint: 'x:1'}, otlp / a: {endpoint: 'x:2'}}", "exporters::otlp/a: given twice"},
		{"exporters: {otlp: {endpoint: 'x:1', sending_queue: {storage: disk}, auth: {authenticator: oauth}}}", "exporters::otlp::auth: names an extension, and there are none; exporters::otlp::sending_queue::storage: names an extension, and there are none"},

		// Values.
		{"tracer: {interval: 1h, max_hold: -1s}", "tracer::interval: 1h0m0s, want 1ms to 10s; tracer::max_hold: -1s, want 0s (no bound) or more"},
		{"logs: {events: [open]}", `logs::events: "open", want opened, closed or failed`},
		{"logs: {heartbeat: 1ms}", "logs::heartbeat: 1ms, want 0s (never), or 1s or more"},
		{"filter: [{}, {include: {port: [80]}, exclude: {port: [81]}}]", "filter::0: want one of include and exclude; filter::1: want one of include and exclude"},
		{"filter: [{exclude: {}}]", "filter::0::exclude: empty, want some of cidr, container, executable, netns, port, role and service"},
		{"filter: [{include: {port: []}}]", "filter::0::include: empty, want some of cidr, container, executable, netns, port, role and service"},
		{"filter: [{exclude: {cidr: [10.0.0.0, 10.0.0.0/33]}}]", `filter::0::exclude::cidr: "10.0.0.0", want a prefix such as 10.0.0.0/8 or fd00::/8; filter::0::exclude::cidr: "10.0.0.0/33", want a prefix such as 10.0.0.0/8 or fd00::/8`},
		{"filter: [{exclude: {cidr: ['::ffff:10.0.0.0/104']}}]", `filter::0::exclude::cidr: "::ffff:10.0.0.0/104", want a prefix such as 10.0.0.0/8 or fd00::/8`},
		{"filter: [{exclude: {port: [0, 80]}}, {exclude: {port: [65536]}}]", "filter::0::exclude::port: 0, want 1 to 65535; filter::1::exclude::port: 65536, want 1 to 65535"},
		{"filter: [{exclude: {role: [unknown]}}]", `filter::0::exclude::role: "unknown", want client or server`},
		{"filter: [{exclude: {executable: [''], container: [''], service: ['']}}]", `filter::0::exclude::executable: "", want a name or a glob; filter::0::exclude::container: "", want a name or a glob; filter::0::exclude::service: "", want a name or a glob`},
		{"filter: [{exclude: {netns: [blue, -1]}}]", `filter::0::exclude::netns: "blue", want the inode number of a network namespace, or a path such as /run/netns/blue; filter::0::exclude::netns: "-1", want the inode number of a network namespace, or a path such as /run/netns/blue`},
		{"metrics: {temporality: sum, expire_after: 1s}", `metrics::temporality: "sum", want cumulative or delta; metrics::expire_after: 1s, want metrics::interval (15s) or more`},
		{"traces: {sample_ratio: 2, pairing: one}", `traces::sample_ratio: 2, want 0 to 1; traces::pairing: "one", want both_ends or none`},
		{"storage: {directory: var/lib, max_size: 1MiB}", `storage::directory: "var/lib", want an absolute path, or none; storage::max_size: 1MiB, want 16MiB or more`},
		{"storage: {max_size: auto}", "storage::max_size: auto, want 16MiB or more"},
		{"telemetry: {address: localhost, logs: {otlp: true}}", `telemetry::address: "localhost", want host:port as in "127.0.0.1:9464", or "" for none; telemetry::logs::otlp: true, want an exporter that is otlp or otlphttp`},
		{"telemetry: {logs: {level: loud}}", `telemetry::logs::level: "loud", want debug, info, warn or error`},
		{"exporters: {console: {format: xml}}", `exporters::console::format: "xml", want text or otlp_json`},
		{"exporters: {otlp: }", `exporters::otlp::endpoint: empty, want host:port as in "localhost:4317"`},
		{"exporters: {otlphttp/a: {endpoint: x}, otlphttp/b: {endpoint: 'http://x', encoding: xml}}", `exporters::otlphttp/a::endpoint: "x", want a URL that begins with http:// or https:// and names a host; exporters::otlphttp/b::encoding: "xml", want "proto" or "json"`},
		{"exporters: {otlp: {endpoint: 'x:1', tls: {min_version: '0.9'}}}", `exporters::otlp::tls: invalid TLS min_version: unsupported TLS version: "0.9"`},
		{"exporters: {otlp: {endpoint: 'x:1', sending_queue: {num_consumers: 0}}}", "exporters::otlp::sending_queue: `num_consumers` must be positive"},
		{"exporters: {otlp: {endpoint: 'x:1', sending_queue: {queue_size: 1023}}}", "exporters::otlp::sending_queue::queue_size: 1023, want at least 1024: a batch"},
		{"exporters: {otlp: {endpoint: 'x:1', sending_queue: {sizer: bytes, queue_size: 1000000}}}", "exporters::otlp::sending_queue::queue_size: 1000000, want at least 2097152: a batch"},
	} {
		t.Run(test.config, func(t *testing.T) {
			file := write(t, test.config)
			want := result{2, "", "connspan: " + file + ": " + test.want + "\n"}
			wantResult(t, want, mainWith("validate", "--config", file))
			wantResult(t, want, mainWith("run", "--config", file, "--btf", "/nonexistent"))
		})
	}
}

func TestUnreadableConfiguration(t *testing.T) {
	dir := t.TempDir()
	large := write(t, strings.Repeat("#", maxConfig)+"\n")
	endless := write(t, "tracer: {guard: '${file:/dev/zero}'}")
	itself := write(t, "")
	if err := os.WriteFile(itself, []byte("tracer: ${file:"+itself+"}\nlogs: ${file:"+itself+"}"), 0o600); err != nil {
		t.Fatal(err)
	}
	const tooLarge = ": the configuration is larger than 1048576 octets"
	for file, want := range map[string]string{
		"/nonexistent": "open /nonexistent: no such file or directory",
		dir:            "read " + dir + ": is a directory",
		large:          "read " + large + tooLarge,
		"/dev/zero":    "read /dev/zero" + tooLarge,
		endless:        endless + ": read /dev/zero" + tooLarge,
		itself:         itself + ": read " + itself + tooLarge,
	} {
		t.Run(file, func(t *testing.T) {
			wantResult(t, result{2, "", "connspan: " + want + "\n"}, mainWith("validate", "--config", file))
		})
	}
}

func TestEmptyConfigurationIsAllDefaults(t *testing.T) {
	for _, config := range []string{"", "# nothing\n", "---\n", "{}", "tracer:\nfilter:\nlogs:\nresource:\nexporters:\ntelemetry:\n", "exporters: {}", strings.Repeat("#", maxConfig)} {
		got := mainWith("validate", "--config", write(t, config))
		if got.Code != 0 || got.Stderr != "" {
			t.Errorf("%.30q: got %+v", config, got)
		}
		golden(t, "default.golden.yaml", got.Stdout)
	}
}

func TestValidatePrintsTheResolvedConfiguration(t *testing.T) {
	got := mainWith("validate", "--config", "testdata/full.yaml")
	if got.Code != 0 || got.Stderr != "" {
		t.Fatalf("got %+v", got)
	}
	golden(t, "full.golden.yaml", got.Stdout)
	if strings.Contains(got.Stdout, "SECRET") {
		t.Error("a secret is printed")
	}
}

// What validate prints is a configuration, and the same one.
func TestValidateRoundTrip(t *testing.T) {
	full, err := os.ReadFile("testdata/full.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, config := range []string{
		"",
		string(full),
		"logs: {events: []}",
		"resource: {attributes: {a: '$$$${env:HOME}', b: '', c: 'yes', d: '1'}}",
		"exporters: {otlp: {endpoint: 'dns:///x:1', compression: none, sending_queue: {batch: {min_size: 0}}}}",
		"exporters: {otlp: {endpoint: 'x:1', compression: '', timeout: 0s, headers: {}, tls: {insecure: true}}}",
		"exporters: {otlphttp: {logs_endpoint: 'http://x/y', disable_keep_alives: true, http2_read_idle_timeout: 0s, max_conns_per_host: 3}}",
		"exporters: {otlphttp: {endpoint: 'http://x', idle_conn_timeout: 3s, cookies: {}, compression_params: {level: 9}}}",
	} {
		t.Run(config, func(t *testing.T) {
			first := mainWith("validate", "--config", write(t, config))
			if first.Code != 0 {
				t.Fatalf("got %+v", first)
			}
			wantResult(t, first, mainWith("validate", "--config", write(t, first.Stdout)))

			if !strings.Contains(first.Stdout, "REDACTED") {
				everything := cmp.Exporter(func(reflect.Type) bool { return true })
				if diff := cmp.Diff(mustLoad(t, config), mustLoad(t, first.Stdout), everything, cmpopts.EquateEmpty(),
					cmpopts.IgnoreUnexported(confighttp.ClientConfig{})); diff != "" {
					t.Errorf("(-want +got):\n%s", diff)
				}
			}
		})
	}
}

func mustLoad(t *testing.T, content string) *config {
	t.Helper()
	var stderr output
	cfg, err := load(write(t, content), &stderr)
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

// Every section refuses a key that it does not have, wherever it is.
func TestUnknownKeyIsRefusedInEverySection(t *testing.T) {
	got := mainWith("validate", "--config", "testdata/full.yaml")
	var document map[string]any
	if err := yaml.Unmarshal([]byte(got.Stdout), &document); err != nil {
		t.Fatal(err)
	}
	sections := 0
	var visit func(section map[string]any, path string)
	visit = func(section map[string]any, path string) {
		free := path == "exporters" || path == "resource::attributes"
		if !free {
			sections++
			section["nonsense"] = 1
			content, err := yaml.Marshal(document)
			if err != nil {
				t.Fatal(err)
			}
			delete(section, "nonsense")
			got := mainWith("validate", "--config", write(t, string(content)))
			if want := ": " + join(path, "nonsense") + ": unknown key"; got.Code != 2 || !strings.Contains(got.Stderr, want) {
				t.Errorf("got %+v, want %q", got, want)
			}
		}
		for _, key := range slices.Sorted(maps.Keys(section)) {
			if inner, ok := section[key].(map[string]any); ok {
				visit(inner, join(path, key))
			}
		}
	}
	visit(document, "")
	if sections < 15 {
		t.Errorf("visited %d sections, want all", sections)
	}
}

func TestExpansion(t *testing.T) {
	token := write(t, "SECRET-token\r\n")
	t.Setenv("GUARD", "7us")
	t.Setenv("NUMBER", "0123")
	cfg := mustLoad(t, fmt.Sprintf(`
tracer: {guard: "${env:GUARD}", interval: "${env:NOT_SET:-30ms}", max_pending: "${file:%s}"}
resource: {attributes: {number: "${NUMBER}", price: "$$5 ${env:GUARD}"}}
exporters: {otlp: {endpoint: "x:1", headers: {authorization: "Bearer ${file:%s}", number: "${env:NUMBER}"}}}
`, write(t, "2000\n"), token))

	if cfg.Exporter.Tracer.Guard != 7*time.Microsecond || cfg.Exporter.Tracer.Interval != 30*time.Millisecond || cfg.Exporter.Tracer.MaxPending != 2000 {
		t.Errorf("got tracer %+v", cfg.Exporter.Tracer)
	}
	if a := cfg.Exporter.Resource.Attributes; a["number"] != "0123" || a["price"] != "$5 7us" {
		t.Errorf("got attributes %q", a)
	}
	client := cfg.Exporters[component.MustNewID("otlp")].(*otlp.GRPCConfig).ClientConfig
	if got, _ := client.Headers.Get("authorization"); string(got) != "Bearer SECRET-token" {
		t.Errorf("authorization: got %q", string(got))
	}
	if got, _ := client.Headers.Get("number"); string(got) != "0123" {
		t.Errorf("number: got %q", string(got))
	}
}

func TestUnsetVariableIsToldOf(t *testing.T) {
	got := mainWith("validate", "--config", write(t, "resource: {attributes: {a: 'x${env:CONNSPAN_NOT_SET}'}}"))
	if got.Code != 0 || strings.Count(got.Stderr, "\n") != 1 || !strings.Contains(got.Stderr, "CONNSPAN_NOT_SET") {
		t.Errorf("got %+v", got)
	}
}
