// Package delivery sends batches of records to a webhook's receiver and judges
// what it answers: the formats, the signature, the one guarded HTTP client, the
// meaning of each status, and how long to wait before the next attempt. A Notifier
// makes lifecycle calls in the same way.
//
// A Client makes single attempts and never retries by itself: a failed delivery
// waits in its partition's schedule, where it holds no socket and no goroutine
// and can be seen. That is why no retrying HTTP client is used here.
//
// It speaks HTTP/1.1 over connections of its own (wire.go) and leaves the parsing
// of answers to net/http. It starts no goroutine that outlives the call.
package delivery

import (
	"strconv"
	"sync/atomic"

	"github.com/kpush/kpush/webhooks"
	"github.com/kpush/kpush/webhooks/egress"
)

// Config is what a Client or a Notifier is made from.
type Config struct {
	Webhook   webhooks.Webhook // complete
	Signer    *Signer          // nil: requests go unsigned
	AckURL    string           // told to receivers as ack.url
	UserAgent string           // kpush/<version>

	// Guard makes the connections, and refuses those that the installation's policy
	// does not allow. Default: the strictest, public addresses by https.
	Guard *egress.Guard

	// LoopMarker, if it is not empty, goes out as LoopHeader with every request, so
	// that a gateway knows its own deliveries when they come back to it.
	LoopMarker string

	// Tokens are what the webhook's auth needs, for all that are made from one
	// webhook. Default: a source of its own for each.
	Tokens *TokenSource
}

// Client delivers to one webhook through one transport of its own. All methods
// may be called concurrently. Close waits for nothing and drops idle connections.
type Client struct {
	*endpoint
	explicit bool // only an explicit ack counts
	key      keyFormat
	value    valueFormat
	strict   bool // values have to be JSON
	form     format
	pack     func(dst, body []byte) []byte // nil: bodies go as they are
	headroom atomic.Int64                  // the longest envelope head seen, what Encode leaves room for
}

// minHeadroom fits the head of an envelope with names of usual length.
const minHeadroom = 1 << 10

// NewClient makes the client of one webhook. It fails when the URL cannot be
// sent to or a header cannot be sent.
func NewClient(cfg Config) (*Client, error) {
	d, err := dialerOf(cfg)
	if err != nil {
		return nil, err
	}
	return newClient(cfg, d)
}

func newClient(cfg Config, d *dialer) (*Client, error) {
	w := cfg.Webhook
	f, err := newFormat(w, cfg.AckURL)
	if err != nil {
		return nil, err
	}
	headers := append(fixedHeaders(cfg, f.contentType), header{"kpush-ack-timeout-ms", strconv.Itoa(w.Ack.TimeoutMs)})
	pack, err := packerOf(w)
	if err != nil {
		return nil, err
	}
	if pack != nil {
		headers = append(headers, header{"content-encoding", w.Format.ContentEncoding})
	}
	e, err := newEndpoint(cfg, d, "url", w.URL, headers)
	if err != nil {
		return nil, err
	}
	if err := e.authenticate(cfg); err != nil {
		e.Close()
		return nil, err
	}
	c := &Client{
		endpoint: e,
		explicit: w.Ack.Mode == webhooks.AckExplicit,
		key:      keyFormatOf(w.Format.Key),
		value:    valueFormatOf(w.Format.Value),
		strict:   w.Format.Value == "json" && w.OnUndecodable != webhooks.OnUndecodableBase64,
		form:     f,
		pack:     pack,
	}
	c.headroom.Store(minHeadroom)
	return c, nil
}
