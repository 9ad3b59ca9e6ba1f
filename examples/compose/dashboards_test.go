package compose_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// dashboard is what is looked at of a dashboard's JSON.
type dashboard struct {
	UID    string  `json:"uid"`
	Title  string  `json:"title"`
	Panels []panel `json:"panels"`
	Links  []struct {
		URL string `json:"url"`
	} `json:"links"`
	Templating struct {
		List []variable `json:"list"`
	} `json:"templating"`
}

type panel struct {
	ID          int                      `json:"id"`
	Type        string                   `json:"type"`
	Title       string                   `json:"title"`
	Description string                   `json:"description"`
	GridPos     struct{ H, W, X, Y int } `json:"gridPos"`
	Datasource  source                   `json:"datasource"`
	Targets     []target                 `json:"targets"`
	FieldConfig json.RawMessage          `json:"fieldConfig"`
}

type target struct {
	RefID      string `json:"refId"`
	Datasource source `json:"datasource"`
	Expr       string `json:"expr"`  // PromQL or LogQL
	Query      string `json:"query"` // TraceQL
	Exemplar   bool   `json:"exemplar"`
}

type source struct {
	Type string `json:"type"`
	UID  string `json:"uid"`
}

type variable struct {
	Name       string `json:"name"`
	Definition string `json:"definition"`
	AllValue   string `json:"allValue"`
	Datasource source `json:"datasource"`
}

// zeroIsGood reports whether the panel says that it shows nothing, or 0, while all is well.
func (p *panel) zeroIsGood() bool { return strings.Contains(p.Description, "Zero is good") }

func dashboards(t *testing.T) map[string]*dashboard {
	t.Helper()
	files, err := filepath.Glob("grafana/dashboards/*.json")
	if err != nil || len(files) == 0 {
		t.Fatalf("%d dashboards, %v", len(files), err)
	}
	all := make(map[string]*dashboard)
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		d := &dashboard{}
		if err := json.Unmarshal(b, d); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		all[d.UID] = d
	}
	return all
}

// datasources is what is looked at of the provisioning of data sources.
type datasources struct {
	Datasources []struct {
		UID, Name, Type, URL string
		JSONData             struct {
			ExemplarTraceIDDestinations []struct {
				DatasourceUID string `yaml:"datasourceUid"`
			} `yaml:"exemplarTraceIdDestinations"`
			DerivedFields []struct {
				DatasourceUID string `yaml:"datasourceUid"`
			} `yaml:"derivedFields"`
			TracesToLogs struct {
				DatasourceUID string `yaml:"datasourceUid"`
				Query         string
			} `yaml:"tracesToLogsV2"`
			TracesToMetrics struct {
				DatasourceUID string `yaml:"datasourceUid"`
				Queries       []struct{ Name, Query string }
			} `yaml:"tracesToMetrics"`
		} `yaml:"jsonData"`
	}
}

const datasourcesFile = "grafana/provisioning/datasources/connspan.yaml"

func readYAML(t *testing.T, file string, into any) {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(b, into); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
}

// provisioned gives the type of each data source by its uid.
func provisioned(t *testing.T) map[string]string {
	t.Helper()
	var all datasources
	readYAML(t, datasourcesFile, &all)
	types := make(map[string]string)
	for _, d := range all.Datasources {
		if types[d.UID] != "" || d.UID == "" {
			t.Errorf("%s: uid %q of %s is not its own", datasourcesFile, d.UID, d.Name)
		}
		types[d.UID] = d.Type
	}
	return types
}

// substitute puts in the values of variables, those of Grafana's own and the dashboard's, which are all of All.
func substitute(expr string, variables []variable) string {
	oldnew := []string{"$__rate_interval", "5m", "$__range", "5m", "$__interval", "1s"}
	for _, v := range variables {
		oldnew = append(oldnew, "${"+v.Name+":regex}", v.AllValue, "$"+v.Name, v.AllValue)
	}
	return strings.NewReplacer(oldnew...).Replace(expr)
}
