package otlp

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/collector/pdata/plog"
)

// TestSplit cuts logs of several resources and scopes at every limit.
func TestSplit(t *testing.T) {
	ld := plog.NewLogs()
	for r, scopes := range [][]int{{3, 1}, {}, {0, 2}, {7}} {
		rl := ld.ResourceLogs().AppendEmpty()
		rl.SetSchemaUrl(fmt.Sprint("resource schema ", r))
		rl.Resource().Attributes().PutInt("resource", int64(r))
		for s, records := range scopes {
			sl := rl.ScopeLogs().AppendEmpty()
			sl.SetSchemaUrl(fmt.Sprint("scope schema ", s))
			sl.Scope().SetName(fmt.Sprint("scope ", s))
			for i := range records {
				sl.LogRecords().AppendEmpty().Body().SetStr(fmt.Sprint("record ", i))
			}
		}
	}
	want := described(ld)
	var sizer plog.ProtoMarshaler
	whole := sizer.LogsSize(ld)

	for limit := range whole {
		var got []string
		parts := split(ld, limit)
		for _, part := range parts {
			if size := sizer.LogsSize(part); size > limit && part.LogRecordCount() != 1 {
				t.Fatalf("limit %d: a part of %d records is %d bytes", limit, part.LogRecordCount(), size)
			}
			got = append(got, described(part)...)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("limit %d (-want +got):\n%s", limit, diff)
		}
		if diff := cmp.Diff(want, described(join(parts))); diff != "" {
			t.Fatalf("limit %d, joined (-want +got):\n%s", limit, diff)
		}
	}
	if diff := cmp.Diff(want, described(ld)); diff != "" {
		t.Errorf("changed what it split (-before +after):\n%s", diff)
	}
	if n := len(split(ld, whole)); n != 1 {
		t.Errorf("%d parts, though all of it fits in one", n)
	}
}

// described returns one line for each record, with all it belongs to.
func described(ld plog.Logs) []string {
	var lines []string
	for _, rl := range ld.ResourceLogs().All() {
		for _, sl := range rl.ScopeLogs().All() {
			for _, record := range sl.LogRecords().All() {
				lines = append(lines, strings.Join([]string{
					rl.SchemaUrl(), fmt.Sprint(rl.Resource().Attributes().AsRaw()),
					sl.SchemaUrl(), sl.Scope().Name(), record.Body().Str(),
				}, " / "))
			}
		}
	}
	return lines
}
