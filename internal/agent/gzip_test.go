package agent

import (
	"bytes"
	"compress/gzip"
	"io"
	"strings"
	"testing"

	"google.golang.org/grpc/encoding"
	grpcgzip "google.golang.org/grpc/encoding/gzip"
)

// TestGzip: what the program packs anybody's gzip unpacks, also when a writer is used again.
func TestGzip(t *testing.T) {
	packer, ok := encoding.GetCompressor(grpcgzip.Name).(*compressor)
	if !ok {
		t.Fatalf("gRPC packs with %T", encoding.GetCompressor(grpcgzip.Name))
	}
	for _, want := range []string{"", "a", strings.Repeat("tcp.connection.close ", 10_000)} {
		var packed bytes.Buffer
		w, err := packer.Compress(&packed)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, want); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		if n := packed.Len(); n > 100+len(want)/50 {
			t.Errorf("%d octets of %d", n, len(want))
		}
		r, err := gzip.NewReader(&packed)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(r); err != nil || string(got) != want {
			t.Errorf("got %d octets, error %v, want %d", len(got), err, len(want))
		}
	}
}
