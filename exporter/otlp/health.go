package otlp

import (
	"sync"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componentstatus"
	"go.opentelemetry.io/collector/consumer/consumererror"
)

// health tells the host when the export begins to fail, why, and that it goes on again. exporterhelper
// reports nothing of that.
type health struct {
	host component.Host

	mu     sync.Mutex
	reason string // empty while all is well
}

// report hears how an attempt ended. What the server refused for good says nothing about the next
// attempt.
func (h *health) report(err error) {
	if consumererror.IsPermanent(err) {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	var reason string
	if err != nil {
		reason = err.Error()
	}
	if reason == h.reason {
		return
	}
	h.reason = reason
	if err == nil {
		componentstatus.ReportStatus(h.host, componentstatus.NewEvent(componentstatus.StatusOK))
		return
	}
	componentstatus.ReportStatus(h.host, componentstatus.NewRecoverableErrorEvent(err))
}
