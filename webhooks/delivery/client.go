// Package delivery sends batches of records to a webhook's receiver and judges
// what it answers: the envelope, the signature, the one guarded HTTP client, the
// meaning of each status, and how long to wait before the next attempt.
//
// A Client makes single attempts and never retries by itself: a failed delivery
// waits in its partition's schedule, where it holds no socket and no goroutine
// and can be seen. That is why no retrying HTTP client is used here.
//
// It speaks HTTP/1.1 over connections of its own (wire.go) and leaves the parsing
// of answers to net/http. It starts no goroutines.
package delivery

import (
	"fmt"
	"net/url"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/trace"

	"github.com/kpush/kpush/webhooks"
)

// Config is what a Client is made from.
type Config struct {
	Webhook   webhooks.Webhook // complete
	Secret    []byte           // HMAC key of Standard Webhooks, raw bytes
	AckURL    string           // told to receivers as ack.url
	UserAgent string           // kpush/<version>

	// Control is called with each address about to be dialled, after the name was
	// resolved and before the first packet, as net.Dialer.Control; an error refuses
	// the address. Nil allows every address.
	Control func(network, address string, conn syscall.RawConn) error
}

// Client delivers to one webhook through one transport of its own. All methods
// may be called concurrently. Close waits for nothing and drops idle connections.
type Client struct {
	url      *url.URL
	address  string // host:port
	secure   bool
	start    []byte        // of every request
	explicit bool          // only an explicit ack counts
	timeout  time.Duration // of one attempt, from dial to the end of the answer
	key      keyFormat
	value    valueFormat
	envelope envelopeParts
	signers  *signers // nil: deliveries go unsigned
	dialer   *dialer
	wires    wires
	tracer   trace.Tracer

	requests sync.Pool    // of *request
	headroom atomic.Int64 // the longest envelope head seen, what Encode leaves room for
}

// minHeadroom fits the head of an envelope with names of usual length.
const minHeadroom = 1 << 10

// NewClient makes the client of one webhook. It fails when the URL cannot be
// sent to or a header cannot be sent.
func NewClient(cfg Config) (*Client, error) {
	return newClient(cfg, newDialer(cfg.Control))
}

func newClient(cfg Config, d *dialer) (*Client, error) {
	w := cfg.Webhook
	target, err := url.Parse(w.URL)
	if err != nil {
		// The parser's message repeats the URL, which may carry a secret.
		return nil, fmt.Errorf("webhook %q: the url cannot be parsed", w.ID)
	}
	if target.Scheme != "http" && target.Scheme != "https" || target.Hostname() == "" {
		return nil, fmt.Errorf("webhook %q: the url is not an http or https url with a host", w.ID)
	}
	c := &Client{
		url:      target,
		address:  addressOf(target),
		secure:   target.Scheme == "https",
		explicit: w.Ack.Mode == webhooks.AckExplicit,
		timeout:  w.Request.Timeout(),
		key:      keyFormatOf(w.Format.Key),
		value:    valueFormatOf(w.Format.Value),
		envelope: newEnvelopeParts(w, cfg.AckURL),
		dialer:   d,
		tracer:   otel.Tracer("github.com/kpush/kpush/webhooks/delivery"),
	}
	headers := fixedHeaders(w, cfg.UserAgent)
	for _, h := range headers {
		if !validHeader(h) {
			return nil, fmt.Errorf("webhook %q: header %q cannot be sent", w.ID, h.name)
		}
	}
	c.start = requestStart(target, headers)
	if w.Signing.Enabled {
		c.signers = newSigners(cfg.Secret)
	}
	c.requests.New = func() any { return new(request) }
	c.headroom.Store(minHeadroom)
	return c, nil
}

// Close drops idle connections. Attempts under way end as they would have.
func (c *Client) Close() { c.wires.close() }
