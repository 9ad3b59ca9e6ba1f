package compose_test

import (
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/loader"
	"github.com/compose-spec/compose-go/v2/types"
)

// project loads compose.yaml as Docker Compose does: by its schema, with all that refers to something else in it.
func project(t *testing.T) *types.Project {
	t.Helper()
	details := types.ConfigDetails{WorkingDir: ".", ConfigFiles: []types.ConfigFile{{Filename: "compose.yaml"}}, Environment: types.Mapping{}}
	p, err := loader.LoadWithContext(t.Context(), details)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestCompose: what is promised for each service, and that what is mounted is there.
func TestCompose(t *testing.T) {
	version := regexp.MustCompile(`^[^:]+:v?\d+\.\d+\.\d+(-[a-z]+)?$`)
	for name, s := range project(t).Services {
		if s.Build == nil && !version.MatchString(s.Image) {
			t.Errorf("%s: image %s, want one version", name, s.Image)
		}
		if s.MemLimit == 0 {
			t.Errorf("%s: no mem_limit", name)
		}
		if name != "wget" && (s.HealthCheck == nil || s.Restart == "") {
			t.Errorf("%s: want a healthcheck and restart", name)
		}
		if s.Privileged {
			t.Errorf("%s: privileged", name)
		}
		for _, port := range s.Ports {
			if port.HostIP != "127.0.0.1" {
				t.Errorf("%s: port %s published on %q, want 127.0.0.1", name, port.Published, port.HostIP)
			}
		}
		for _, v := range s.Volumes {
			if v.Type != types.VolumeTypeBind {
				continue
			}
			if _, err := os.Stat(v.Source); err != nil || !v.ReadOnly {
				t.Errorf("%s: mounts %s, read-only %v, %v", name, v.Source, v.ReadOnly, err)
			}
		}
	}
}

// TestHealthChecks: each asks the port that the configuration beside it names.
func TestHealthChecks(t *testing.T) {
	files := map[string]string{"collector": "collector.yaml", "loki": "loki.yaml", "tempo": "tempo.yaml"}
	for name, s := range project(t).Services {
		if s.HealthCheck == nil {
			continue
		}
		asked, err := url.Parse(s.HealthCheck.Test[len(s.HealthCheck.Test)-1])
		if err != nil {
			t.Fatal(err)
		}
		if file := files[name]; file != "" {
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(string(b), asked.Port()) {
				t.Errorf("%s: its health is asked for on port %s, which is not in %s", name, asked.Port(), file)
			}
		}
	}
}

// TestDockerfile: what is copied is there, or was made, and what is left out is not needed.
func TestDockerfile(t *testing.T) {
	b, err := os.ReadFile("Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		words := strings.Fields(line)
		if len(words) == 0 || words[0] != "COPY" || strings.HasPrefix(words[1], "--from") {
			continue
		}
		for _, source := range words[1 : len(words)-1] {
			if _, err := os.Stat(filepath.Join("../..", source)); err != nil {
				t.Error(err)
			}
		}
	}
	version, err := exec.Command("go", "list", "-m", "-f", "{{.GoVersion}}").Output()
	if err != nil {
		t.Fatal(err)
	}
	if minor := regexp.MustCompile(`^\d+\.\d+`).Find(version); !strings.Contains(string(b), fmt.Sprintf("FROM golang:%s.", minor)) {
		t.Errorf("the module wants Go %s, the Dockerfile has another", minor)
	}
	packages, err := exec.Command("go", "list", "-deps", "-f", "{{if .Module}}{{if .Module.Main}}{{.ImportPath}}{{end}}{{end}}", "../..").Output()
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(packages), "/examples/") {
		t.Errorf("connspan imports what .dockerignore leaves out:\n%s", packages)
	}
}

// TestCollectorConfig has the Collector validate its configuration.
func TestCollectorConfig(t *testing.T) {
	if out, err := exec.Command(otelcol(t), "validate", "--config", "collector.yaml").CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

// TestPrometheusConfig has Prometheus' own tool check the configuration.
func TestPrometheusConfig(t *testing.T) {
	if out, err := exec.Command("promtool", "check", "config", "prometheus.yaml").CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

// TestConnspanConfig has connspan validate its configuration.
func TestConnspanConfig(t *testing.T) {
	program, err := connspan()
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(program, "validate", "--config", "connspan.yaml").CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

// TestTargets: Prometheus scrapes what the Collector shows, at the ports that are published.
func TestTargets(t *testing.T) {
	var config struct {
		Scrapes []struct {
			Static []struct{ Targets []string } `yaml:"static_configs"`
		} `yaml:"scrape_configs"`
	}
	readYAML(t, "prometheus.yaml", &config)
	published := []string{"127.0.0.1:9464"} // connspan's own, on the host's network
	for _, port := range project(t).Services["collector"].Ports {
		published = append(published, port.HostIP+":"+port.Published)
	}
	for _, s := range config.Scrapes {
		for _, target := range s.Static[0].Targets {
			if !slices.Contains(published, target) {
				t.Errorf("scrapes %s, published are %v", target, published)
			}
		}
	}
}

// TestProvisioning: every link between data sources leads to one, and each is where its service listens.
func TestProvisioning(t *testing.T) {
	uids := provisioned(t)
	var all datasources
	readYAML(t, datasourcesFile, &all)
	p := project(t)
	for _, d := range all.Datasources {
		linked := []string{}
		for _, l := range d.JSONData.ExemplarTraceIDDestinations {
			linked = append(linked, l.DatasourceUID)
		}
		for _, l := range d.JSONData.DerivedFields {
			linked = append(linked, l.DatasourceUID)
		}
		if d.JSONData.TracesToLogs.Query != "" {
			linked = append(linked, d.JSONData.TracesToLogs.DatasourceUID)
		}
		if len(d.JSONData.TracesToMetrics.Queries) > 0 {
			linked = append(linked, d.JSONData.TracesToMetrics.DatasourceUID)
		}
		if len(linked) == 0 {
			t.Errorf("%s leads nowhere", d.Name)
		}
		for _, uid := range linked {
			if uids[uid] == "" {
				t.Errorf("%s leads to %q, which is none of %v", d.Name, uid, uids)
			}
		}
		s := p.Services[d.UID]
		at := strings.TrimPrefix(d.URL, "http://")
		if !slices.Contains(s.Command, "--web.listen-address="+at) &&
			!slices.ContainsFunc(s.Ports, func(p types.ServicePortConfig) bool { return p.HostIP+":"+p.Published == at }) {
			t.Errorf("%s is asked at %s, where its service does not listen", d.Name, at)
		}
	}
	var providers struct {
		Providers []struct{ Options struct{ Path string } }
	}
	readYAML(t, "grafana/provisioning/dashboards/connspan.yaml", &providers)
	grafana := p.Services["grafana"]
	dir := providers.Providers[0].Options.Path
	if !slices.ContainsFunc(grafana.Volumes, func(v types.ServiceVolumeConfig) bool { return v.Target == dir }) {
		t.Errorf("dashboards are looked for in %s, which is not mounted", dir)
	}
	home := *grafana.Environment["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
	if _, err := os.Stat(filepath.Join("grafana/dashboards", path.Base(home))); err != nil || path.Dir(home) != dir {
		t.Errorf("home is %s: %v", home, err)
	}
}

// TestDashboards: ids are unique, panels do not overlap, all have queries, and every link leads somewhere.
func TestDashboards(t *testing.T) {
	all, uids := dashboards(t), provisioned(t)
	for _, d := range all {
		t.Run(d.UID, func(t *testing.T) {
			ids := make(map[int]string)
			taken := make(map[[2]int]string)
			for _, p := range d.Panels {
				if before, ok := ids[p.ID]; ok {
					t.Errorf("%s and %s have the same id %d", before, p.Title, p.ID)
				}
				ids[p.ID] = p.Title
				for x := range p.GridPos.W {
					for y := range p.GridPos.H {
						cell := [2]int{p.GridPos.X + x, p.GridPos.Y + y}
						if taken[cell] != "" || cell[0] >= 24 {
							t.Fatalf("%s overlaps %s at %v", p.Title, taken[cell], cell)
						}
						taken[cell] = p.Title
					}
				}
				checkPanel(t, &p, uids)
				for _, link := range links(t, p.FieldConfig) {
					checkLink(t, p.Title, link, all, uids)
				}
			}
			for _, l := range d.Links {
				checkLink(t, d.Title, l.URL, all, uids)
			}
			for _, v := range d.Templating.List {
				if uids[v.Datasource.UID] != v.Datasource.Type || v.Definition == "" || v.AllValue == "" {
					t.Errorf("variable %+v", v)
				}
			}
		})
	}
}

func checkPanel(t *testing.T, p *panel, uids map[string]string) {
	t.Helper()
	if p.Type == "row" {
		return
	}
	if len(p.Targets) == 0 || p.Title == "" {
		t.Errorf("panel %d, %q: %d queries", p.ID, p.Title, len(p.Targets))
	}
	refs := make(map[string]bool)
	for _, q := range p.Targets {
		if q.Expr+q.Query == "" || refs[q.RefID] {
			t.Errorf("%s: query %s is empty or there twice", p.Title, q.RefID)
		}
		refs[q.RefID] = true
		if uids[q.Datasource.UID] != q.Datasource.Type || uids[p.Datasource.UID] != p.Datasource.Type {
			t.Errorf("%s: data sources %v and %v, want those of %v", p.Title, p.Datasource, q.Datasource, uids)
		}
	}
}

// links finds the URLs of data links, wherever they are.
func links(t *testing.T, b json.RawMessage) (all []string) {
	t.Helper()
	if len(b) == 0 {
		return nil
	}
	var tree any
	if err := json.Unmarshal(b, &tree); err != nil {
		t.Fatal(err)
	}
	var walk func(any)
	walk = func(node any) {
		switch node := node.(type) {
		case map[string]any:
			for key, value := range node {
				if u, ok := value.(string); ok && key == "url" {
					all = append(all, u)
				}
				walk(value)
			}
		case []any:
			for _, value := range node {
				walk(value)
			}
		}
	}
	walk(tree)
	return all
}

// checkLink: to a dashboard, to Explore with a query, or to a service of the example.
func checkLink(t *testing.T, from, link string, boards map[string]*dashboard, uids map[string]string) {
	t.Helper()
	u, err := url.Parse(link)
	if err != nil {
		t.Errorf("%s: %v", from, err)
		return
	}
	switch {
	case strings.HasPrefix(link, "/d/"):
		if boards[path.Base(u.Path)] == nil {
			t.Errorf("%s: %s is no dashboard", from, u.Path)
		}
	case strings.HasPrefix(link, "/explore?"):
		var panes map[string]struct {
			Datasource string
			Queries    []target
		}
		if err := json.Unmarshal([]byte(u.Query().Get("panes")), &panes); err != nil {
			t.Errorf("%s: %s: %v", from, link, err)
		}
		for _, p := range panes {
			if uids[p.Datasource] == "" || len(p.Queries) != 1 || p.Queries[0].Expr+p.Queries[0].Query == "" {
				t.Errorf("%s: %s asks %+v", from, link, p)
			}
		}
	case !strings.HasPrefix(link, "http://127.0.0.1:16686/"):
		t.Errorf("%s: link to %s", from, link)
	}
}
