package compose_test

import (
	"fmt"
	"math"
	"net/http"
	"testing"
	"time"

	"github.com/prometheus/client_golang/api"
	v1 "github.com/prometheus/client_golang/api/prometheus/v1"
	"github.com/prometheus/common/model"
)

// prometheus is asked what Grafana would ask.
type prometheus struct {
	t   *testing.T
	api v1.API
}

func newPrometheus(t *testing.T, address string) *prometheus {
	t.Helper()
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	client, err := api.NewClient(api.Config{Address: address, RoundTripper: transport})
	if err != nil {
		t.Fatal(err)
	}
	return &prometheus{t, v1.NewAPI(client)}
}

// query gives the values of an expression at a time, by their labels.
func (p *prometheus) query(expr string, at time.Time) (map[string]float64, error) {
	value, _, _, err := p.api.Query(p.t.Context(), expr, at)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", expr, err)
	}
	all := make(map[string]float64)
	switch value := value.(type) {
	case model.Vector:
		for _, sample := range value {
			all[sample.Metric.String()] = float64(sample.Value)
		}
	case *model.Scalar:
		all["{}"] = float64(value.Value)
	}
	return all, nil
}

// awaitValue waits until the expression, a single value, is what is wanted, and was scraped once more since: whatever
// came with it is there too. It gives the time of that scrape, at which rates are exact: rate and increase extrapolate
// from the last sample to the time that they are asked for.
func (p *prometheus) awaitValue(expr string, want float64) (at time.Time) {
	p.t.Helper()
	var first float64
	await(p.t, func() error {
		got, err := p.query(expr, time.Now())
		if err != nil {
			return err
		}
		if value, ok := got["{}"]; !ok || value != want {
			return fmt.Errorf("%s is %v, want %v", expr, got, want)
		}
		// A scrape that failed has a time as well, and no values.
		times, err := p.query(`max(timestamp(up{job="connections"})) and max(up{job="connections"} == 1)`, time.Now())
		if err != nil {
			return err
		}
		switch scraped, ok := times["{}"]; {
		case ok && first == 0:
			first = scraped
		case ok && scraped > first:
			at = time.UnixMilli(int64(math.Round(scraped * 1000)))
			return nil
		}
		return fmt.Errorf("no scrape since %v", first)
	})
	return at
}

// show gives the values of all queries of a panel at a time.
func (p *prometheus) show(panel *panel, variables []variable, at time.Time) map[string]float64 {
	p.t.Helper()
	all := make(map[string]float64)
	for _, q := range panel.Targets {
		values, err := p.query(substitute(q.Expr, variables), at)
		if err != nil {
			p.t.Errorf("%s: %v", panel.Title, err)
		}
		for labels, value := range values {
			all[q.RefID+labels] = value
		}
	}
	return all
}
