package otlp

import (
	"testing"

	"go.opentelemetry.io/collector/exporter/exporterhelper/xexporterhelper"
	xrequest "go.opentelemetry.io/collector/pdata/xpdata/request"
)

// TestShortcutForgets: a request that storage would not give is not taken for the next one.
func TestShortcutForgets(t *testing.T) {
	s := newShortcut(xexporterhelper.NewLogsQueueBatchSettings())
	encoded := func(bodies ...string) []byte {
		b, err := xrequest.MarshalLogs(t.Context(), logsOf(bodies...))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	_, request, err := s.Unmarshal(encoded("a"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Marshal(t.Context(), request); err != nil {
		t.Fatal(err)
	}
	s.put(0)
	if !s.take(0) { // and then storage fails
		t.Error("not kept")
	}
	if s.take(1) {
		t.Error("kept what nobody has put")
	}
	_, request, err = s.Unmarshal(encoded("b", "c"))
	if err != nil || request.ItemsCount() != 2 {
		t.Errorf("got %d items, error %v, want 2", request.ItemsCount(), err)
	}
}
