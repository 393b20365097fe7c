package delivery

import (
	"bytes"
	"fmt"
	"runtime"
	"sync"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/kpush/kpush/webhooks"
)

// Compression works where the receiver is the slow part, or the network: both levels
// are the fastest that there are. What is sent is what is signed, so a receiver
// verifies before it unpacks.
//
// The envelope is compressed for each attempt, since its head has the attempt's token
// and time; the other formats once. To compress its records apart from its head, and
// join the two, would spare nothing but retries, which wait for longer than that takes.

// packerOf returns what compresses the bodies of a webhook: it appends what it makes
// of body to dst. It is nil for a webhook that wants them as they are. Any goroutine
// may call it; at most as many compress at once as there are processors, so that the
// memory of compressors is bounded whatever the number of deliveries.
func packerOf(w webhooks.Webhook) (func(dst, body []byte) []byte, error) {
	switch w.Format.ContentEncoding {
	case "", webhooks.EncodingIdentity: // empty in tests only
		return nil, nil
	case webhooks.EncodingGzip:
		return gzipped, nil
	case webhooks.EncodingZstd:
		return zstandard, nil
	default:
		return nil, fmt.Errorf("webhook %q: there is no encoding %q", w.ID, w.Format.ContentEncoding)
	}
}

// gzipWriters has one place for each compressor that there may be, nil until it is
// made. Whoever takes one puts it back.
var gzipWriters = sync.OnceValue(func() chan *gzip.Writer {
	free := make(chan *gzip.Writer, runtime.GOMAXPROCS(0))
	for range cap(free) {
		free <- nil
	}
	return free
})

func gzipped(dst, body []byte) []byte {
	w := <-gzipWriters()
	if w == nil {
		w, _ = gzip.NewWriterLevel(nil, gzip.BestSpeed) // fails for levels that do not exist
	}
	out := bytes.NewBuffer(dst)
	w.Reset(out)
	_, _ = w.Write(body) // a buffer takes everything
	_ = w.Close()
	gzipWriters() <- w
	return out.Bytes()
}

// zstdWindow is how far back matches reach: receivers need as much memory. RFC 9659
// allows content encodings 8 MiB; at this level more than this finds little.
const zstdWindow = 512 << 10

// zstdEncoder has that many encoders inside as may work at once, and lets others wait.
var zstdEncoder = sync.OnceValue(func() *zstd.Encoder {
	e, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithWindowSize(zstdWindow),
		zstd.WithEncoderConcurrency(runtime.GOMAXPROCS(0)))
	if err != nil {
		panic(fmt.Sprintf("delivery: making a zstd encoder: %v", err)) // options that do not exist
	}
	return e
})

func zstandard(dst, body []byte) []byte { return zstdEncoder().EncodeAll(body, dst) }
