package conn

import (
	"syscall"
	"testing"

	"github.com/connspan/connspan/internal/event"
)

// TestReason: the same state and error may come of different ends; what else the socket shows decides.
func TestReason(t *testing.T) {
	tests := []struct {
		name string
		e    event.Event
		want Reason
	}{
		{"FIN_WAIT2, the rest waits elsewhere", event.Event{OldState: event.FinWait2, Flags: event.Dead | event.Shut}, FIN},
		{"FIN_WAIT2, data behind close", event.Event{OldState: event.FinWait2, Flags: event.Dead | event.Shut | event.TooLate}, ResetSent},
		{"FIN_WAIT1, data behind close", event.Event{OldState: event.FinWait1, Errno: uint32(syscall.ECONNRESET), Flags: event.Dead | event.Shut | event.TooLate}, ResetSent},
		{"FIN_WAIT1, RST", event.Event{OldState: event.FinWait1, Errno: uint32(syscall.ECONNRESET), Flags: event.Dead | event.Shut}, ResetReceived},
		{"FIN_WAIT1, data behind close, and nobody answers", event.Event{OldState: event.FinWait1, Errno: uint32(syscall.ETIMEDOUT), Flags: event.Dead | event.TooLate}, Timeout},
		{"FIN_WAIT2, old data again, then the FIN", event.Event{OldState: event.FinWait2, Flags: event.Dead | event.Shut | event.TooLate | event.FINReceived}, FIN},
		{"in a queue, listener closed", event.Event{OldState: event.Established, Role: event.Server, Flags: event.Unaccepted}, ListenerClosed},
		{"in a queue, the client has closed, listener closed", event.Event{OldState: event.CloseWait, Role: event.Server, Flags: event.Unaccepted}, ListenerClosed},
		{"a subflow, in order", event.Event{OldState: event.LastAck, Role: event.Server, Flags: event.Unaccepted}, FIN},
		{"a client's subflow, in order", event.Event{OldState: event.FinWait2, Role: event.Client, Flags: event.Unaccepted | event.FINReceived}, FIN},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := reason(&tt.e); got != tt.want {
				t.Errorf("reason %s, want %s", got, tt.want)
			}
		})
	}
}

// TestUnanswered: whatever ICMP has said of a connection that was open, it ended because nobody answered;
// of an attempt, that is why it failed. What says that a RST was received, or sent, is no such word.
func TestUnanswered(t *testing.T) {
	tests := []struct {
		errno     syscall.Errno
		want      Reason
		errorType string
	}{
		{syscall.ETIMEDOUT, Timeout, "timed_out"},
		{syscall.ENETUNREACH, Timeout, "network_unreachable"},
		{syscall.EHOSTUNREACH, Timeout, "host_unreachable"},
		{syscall.EHOSTDOWN, Timeout, "host_down"},
		{syscall.ENONET, Timeout, "_OTHER"},
		{syscall.ECONNREFUSED, Timeout, "connection_refused"},
		{syscall.ENOPROTOOPT, Timeout, "protocol_not_available"},
		{syscall.EOPNOTSUPP, Timeout, "operation_not_supported"},
		{syscall.EPROTO, Timeout, "protocol_error"},
		{syscall.EACCES, Timeout, "permission_denied"},
		{syscall.EMSGSIZE, Timeout, "message_too_long"},
		{syscall.ECONNRESET, ResetReceived, "connection_reset"},
		{syscall.ECONNABORTED, ResetSent, "connection_aborted"},
		{syscall.EBADMSG, Unknown, "_OTHER"},
	}
	for _, tt := range tests {
		t.Run(tt.errno.Error(), func(t *testing.T) {
			for _, state := range []event.State{event.Established, event.CloseWait, event.FinWait1, event.LastAck} {
				r := judge(&event.Event{Kind: event.Closed, OldState: state, Errno: uint32(tt.errno)})
				if r.Reason != tt.want || r.ErrorType != tt.errorType {
					t.Errorf("out of state %d: reason %s, error type %s; want %s, %s", state, r.Reason, r.ErrorType, tt.want, tt.errorType)
				}
			}
			r := judge(&event.Event{Kind: event.Failed, OldState: event.SynSent, Errno: uint32(tt.errno)})
			if r.Reason != "" || r.ErrorType != tt.errorType {
				t.Errorf("failed: reason %q, error type %s; want none, %s", r.Reason, r.ErrorType, tt.errorType)
			}
		})
	}
	r := judge(&event.Event{Kind: event.Closed, OldState: event.CloseWait, Errno: uint32(syscall.EPIPE)})
	if r.Reason != ResetReceived || r.ErrorType != "connection_reset" {
		t.Errorf("EPIPE: reason %s, error type %s; want a RST received", r.Reason, r.ErrorType)
	}
}

// TestFailure: only a client can have sent no SYN.
func TestFailure(t *testing.T) {
	for _, tt := range []struct {
		state event.State
		want  string
	}{{event.SynSent, "address_not_available"}, {event.SynRecv, "connection_aborted"}} {
		if got := failure(&event.Event{Kind: event.Failed, OldState: tt.state}); got != tt.want {
			t.Errorf("out of state %d: %s, want %s", tt.state, got, tt.want)
		}
	}
}
