package receiver

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/collector/consumer/consumererror"
	"go.opentelemetry.io/collector/pipeline"
)

// A test's batch is its number, and has as many records.
func count(batch int) int { return batch }

func startQueue(limit int, pass func(context.Context, int) error) *queue[int] {
	q := newQueue(pipeline.SignalLogs, limit, count, pass)
	go q.run()
	return q
}

// TestQueue: a pipeline that blocks does not block who offers, and gets everything in order.
func TestQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got []int
		gate := make(chan struct{})
		q := startQueue(10, func(_ context.Context, batch int) error {
			<-gate
			got = append(got, batch)
			return nil
		})
		var refused []int
		for batch := 1; batch <= 6; batch++ {
			if err := q.offer(t.Context(), batch); err != nil {
				if !errors.Is(err, errQueueFull) {
					t.Error(err)
				}
				refused = append(refused, batch)
			}
		}
		if s := q.look(); s.waiting != 10 {
			t.Errorf("%d records wait, want 10", s.waiting)
		}
		close(gate)
		synctest.Wait()
		// There is room again, also for a batch that is larger than the queue.
		if err := q.offer(t.Context(), 11); err != nil {
			t.Error(err)
		}
		if err := q.close(t.Context()); err != nil {
			t.Error(err)
		}
		if d := cmp.Diff([]int{1, 2, 3, 4, 11}, got); d != "" {
			t.Errorf("passed on:\n%s", d)
		}
		if d := cmp.Diff([]int{5, 6}, refused); d != "" {
			t.Errorf("refused:\n%s", d)
		}
		if d := cmp.Diff(state{signal: pipeline.SignalLogs}, q.look(), cmp.AllowUnexported(state{}, pipeline.Signal{})); d != "" {
			t.Errorf("state:\n%s", d)
		}
	})
}

// TestQueueRetry: what is refused for a time is offered again, ever more rarely, and nothing overtakes
// it; what is refused for good is counted.
func TestQueueRetry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		var got []string
		q := startQueue(10, func(_ context.Context, batch int) error {
			got = append(got, fmt.Sprint(batch, " ", time.Since(began)))
			switch {
			case batch == 1 && time.Since(began) < 12*time.Second:
				return errors.New("not now")
			case batch == 2:
				return consumererror.NewPermanent(errors.New("never"))
			}
			return nil
		})
		for batch := 1; batch <= 3; batch++ {
			if err := q.offer(t.Context(), batch); err != nil {
				t.Error(err)
			}
		}
		synctest.Wait()
		if s := q.look(); s.err == nil || s.err.Error() != "not now" || s.waiting != 6 {
			t.Errorf("meanwhile the state is %+v", s)
		}
		time.Sleep(time.Minute)
		if err := q.close(t.Context()); err != nil {
			t.Error(err)
		}
		want := []string{
			"1 0s", "1 50ms", "1 150ms", "1 350ms", "1 750ms", "1 1.55s", "1 3.15s", "1 6.35s", "1 11.35s", "1 16.35s",
			"2 16.35s", "3 16.35s",
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("attempts:\n%s", d)
		}
		if s := q.look(); s.dropped != 2 || s.waiting != 0 || s.err != nil {
			t.Errorf("in the end the state is %+v", s)
		}
	})
}

// TestQueueClose: at the end each batch is tried once more, as long as there is time.
func TestQueueClose(t *testing.T) {
	tests := []struct {
		name string
		pass func(context.Context, int) error
		took time.Duration
		want string
	}{
		{
			name: "taken",
			pass: func(context.Context, int) error { time.Sleep(time.Second); return nil },
			took: 3 * time.Second,
		},
		{
			name: "refused",
			pass: func(context.Context, int) error { return errors.New("not now") },
			want: "passing on logs: 6 records lost that the pipeline did not take: not now",
		},
		{
			name: "blocked",
			pass: func(ctx context.Context, _ int) error { <-ctx.Done(); return nil },
			took: 5 * time.Second,
			want: "passing on logs: 6 records lost that the pipeline did not take: context deadline exceeded",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				q := startQueue(10, tt.pass)
				for batch := 1; batch <= 3; batch++ {
					if err := q.offer(t.Context(), batch); err != nil {
						t.Error(err)
					}
				}
				synctest.Wait()
				began := time.Now()
				ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
				defer cancel()
				err := q.close(ctx)
				if took := time.Since(began); took != tt.took {
					t.Errorf("took %v, want %v", took, tt.took)
				}
				if fmt.Sprint(err) != tt.want && (err != nil || tt.want != "") {
					t.Errorf("%v, want %q", err, tt.want)
				}
			})
		})
	}
}
