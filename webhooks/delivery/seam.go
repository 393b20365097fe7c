// Package delivery sends batches of records to a webhook's receiver and judges
// what it answers: the envelope, the signature, the one guarded HTTP client, the
// meaning of each status, and how long to wait before the next attempt.
package delivery

import (
	"context"
	"time"

	"github.com/kpush/kpush/internal/records"
	"github.com/kpush/kpush/webhooks"
)

// Config is what a Client is made from.
type Config struct {
	Webhook   webhooks.Webhook // complete
	Secret    []byte           // HMAC key of Standard Webhooks, raw bytes
	AckURL    string           // told to receivers as ack.url
	UserAgent string           // kpush/<version>
}

// Client delivers to one webhook through one transport of its own. All methods
// may be called concurrently. Close waits for nothing and drops idle connections.
type Client struct{}

// NewClient makes the client of one webhook.
func NewClient(cfg Config) (*Client, error) { panic("seam") }

// Close drops idle connections.
func (c *Client) Close() { panic("seam") }

// Message is one delivery encoded once and sent as often as need be. A Message
// is used by one goroutine at a time; Free gives its buffer back.
type Message struct{}

// Encode lays out records [from,to) of b as the request body of one delivery. The
// records' bytes are final; each attempt writes only the head anew. b may be
// freed or reused afterwards, id is the delivery id ("dl_...").
func (c *Client) Encode(id string, topic string, partition int32, b *records.Batch, from, to int) *Message {
	panic("seam")
}

// Free returns the message's memory.
func (m *Message) Free() { panic("seam") }

// Attempt is what differs from one attempt to the next.
type Attempt struct {
	Number     int   // from 1
	Generation int32 // the group's generation now
	Token      string
	Now        time.Time // wall clock: webhook-timestamp and the body's timestamp
}

// Verdict is what an attempt came to.
type Verdict uint8

// Verdicts; see contract section 4, "What the answer means".
const (
	Failed   Verdict = iota // try again, Code says why
	Acked                   // the whole delivery is done
	Received                // the ack will come by POST /ack
	Stated                  // the answer carried an inline ack, in Ack
	TooLarge                // 413: cut the batch
	Gone                    // 410: disable the webhook
)

// Result of one attempt.
type Result struct {
	Verdict    Verdict
	Status     int           // HTTP status; 0 when none was read
	Code       string        // for Failed, TooLarge and Gone: a word of the closed list in codes.go
	RetryAfter time.Duration // what the receiver asked for; 0: nothing
	Ack        *Ack          // for Stated
	At         time.Time     // when the answer had been read
	Took       time.Duration
}

// Ack is the receiver's statement as it stands in an inline ack: contract 5.2 without the token.
type Ack struct {
	Outcome    string // ack, nack, extend; empty is ack
	UpToOffset *int64
	Delay      time.Duration // nack
	Extend     time.Duration // extend
	Reason     string
}

// Send makes one attempt, bounded by the webhook's request timeout and ctx. It
// never returns an error: whatever went wrong is a Result.
func (c *Client) Send(ctx context.Context, m *Message, a Attempt) Result { panic("seam") }

// Backoff is the pause before attempt number n+1 after n failed ones: full
// jitter over the exponential ceiling; what the receiver asked for in
// Retry-After is the floor, capped at MaxBackoff. rnd is in [0,1).
func Backoff(r webhooks.Retry, n int, retryAfter time.Duration, rnd float64) time.Duration {
	panic("seam")
}
