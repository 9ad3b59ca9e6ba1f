package probe

import (
	"bytes"
	"strings"
	"testing"

	"github.com/cilium/ebpf/btf"
)

// TestAcceptProgram: the function's result is behind its parameters, and there are kernels with four and with
// two of them. Of any others, and of a kernel that calls it otherwise, nothing is guessed.
func TestAcceptProgram(t *testing.T) {
	for _, tt := range []struct {
		name       string
		function   string
		parameters int
		want, err  string
	}{
		{"since 6.10", acceptFunction, 2, "accept", ""},
		{"before 6.10", acceptFunction, 4, "accept_before_6_10", ""},
		{"other parameters", acceptFunction, 3, "", "inet_csk_accept has 3 parameters, want 2 or 4"},
		{"no parameters", acceptFunction, 0, "", "inet_csk_accept has 0 parameters, want 2 or 4"},
		{"renamed", "inet_csk_take", 2, "", "looking for inet_csk_accept: "},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := acceptProgram(typesWith(t, tt.function, tt.parameters))
			if got != tt.want || (err == nil) != (tt.err == "") {
				t.Fatalf("program %q, error %v; want %q, %q", got, err, tt.want, tt.err)
			}
			if err != nil && !strings.HasPrefix(err.Error(), tt.err) {
				t.Errorf("error %v, want %q", err, tt.err)
			}
		})
	}
}

// typesWith are those of a kernel with this function.
func typesWith(t *testing.T, function string, parameters int) *btf.Spec {
	t.Helper()
	proto := &btf.FuncProto{Return: &btf.Int{Name: "int", Size: 4, Encoding: btf.Signed}}
	for range parameters {
		proto.Params = append(proto.Params, btf.FuncParam{Name: "p", Type: proto.Return})
	}
	b, err := btf.NewBuilder([]btf.Type{&btf.Func{Name: function, Type: proto, Linkage: btf.StaticFunc}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := b.Marshal(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	types, err := btf.LoadSpecFromReader(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	return types
}
