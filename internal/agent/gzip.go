package agent

import (
	"io"
	"sync"

	"github.com/klauspost/compress/gzip"
	"google.golang.org/grpc/encoding"
	grpcgzip "google.golang.org/grpc/encoding/gzip"
)

// The program packs what it sends over gRPC with another gzip than the one that comes with gRPC, which
// costs more than all the rest of the export: this one needs a sixth of the time, for a fifth more octets.
func init() {
	encoding.RegisterCompressor(&compressor{Compressor: encoding.GetCompressor(grpcgzip.Name)})
}

// compressor unpacks as gRPC's own does.
type compressor struct {
	encoding.Compressor
	writers sync.Pool // of *writer
}

// Compress gives a writer that is not used any more after Close.
func (c *compressor) Compress(w io.Writer) (io.WriteCloser, error) {
	if packing, ok := c.writers.Get().(*writer); ok {
		packing.Reset(w)
		return packing, nil
	}
	packing, err := gzip.NewWriterLevel(w, gzip.BestSpeed)
	return &writer{packing, c}, err
}

type writer struct {
	*gzip.Writer
	of *compressor
}

func (w *writer) Close() error {
	defer w.of.writers.Put(w)
	return w.Writer.Close()
}
