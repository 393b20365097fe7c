package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode"

	"github.com/kpush/kpush/receiver"
)

const (
	// maxEchoBody is more than the largest batch that a webhook may ask for comes to in base64.
	maxEchoBody = 64 << 20

	// ackLater is every how manieth delivery is answered 202, and acked by a call.
	ackLater = 3

	// ackAfter is how long such a call takes its time.
	ackAfter = time.Second

	// maxLaterAcks bounds the calls under way; beyond it deliveries are acked at once.
	maxLaterAcks = 64

	// ackTimeout bounds one call.
	ackTimeout = 10 * time.Second

	// previewRunes is how much of the first record is printed.
	previewRunes = 60
)

// echo is the receiver of "gateway dev", made from the kit that receivers of users
// are made from. It checks the signature, prints the delivery, and answers 200 or,
// every third time, 202 with a POST /ack later.
type echo struct {
	http.Handler
	acker *receiver.Acker // set before the first delivery
	out   io.Writer

	// stopping is closed when the gateway begins to drain: acks still due go at once,
	// and no delivery is answered 202 any more.
	stopping <-chan struct{}

	// secrets are the demo webhook's; nil until trusted is closed.
	secrets  atomic.Pointer[receiver.Secrets]
	trusted  chan struct{}
	trusting sync.Once

	deliveries atomic.Int64
	later      chan struct{} // a slot for each ack under way
	acks       sync.WaitGroup
	printing   sync.Mutex
}

func newEcho(out io.Writer, stopping <-chan struct{}) *echo {
	e := &echo{
		stopping: stopping,
		out:      out,
		trusted:  make(chan struct{}),
		later:    make(chan struct{}, maxLaterAcks),
	}
	e.Handler = &receiver.Handler{SecretsFor: e.secretsFor, Deliver: e.deliver, Report: e.report, MaxBody: maxEchoBody}
	return e
}

// ackAt sets where the gateway's API is.
func (e *echo) ackAt(gateway string) (err error) {
	e.acker, err = receiver.NewAcker(receiver.AckerConfig{Gateway: gateway, Timeout: ackTimeout})
	return err
}

// trust sets the secret (whsec_...) of the demo webhook.
func (e *echo) trust(secret string) error {
	secrets, err := receiver.ParseSecrets(secret)
	if err != nil {
		return fmt.Errorf("the demo webhook's secret: %w", err)
	}
	e.secrets.Store(&secrets)
	e.trusting.Do(func() { close(e.trusted) })
	return nil
}

// secretsFor knows the demo webhook's secret alone: those of others were told to
// whoever registered them. The first delivery may be faster than the answer that tells
// the secret; it waits.
func (e *echo) secretsFor(ctx context.Context, webhook string) (receiver.Secrets, error) {
	if webhook != demoWebhook {
		return receiver.Unsigned(), nil
	}
	select {
	case <-e.trusted:
		return *e.secrets.Load(), nil
	case <-ctx.Done():
		return receiver.Secrets{}, errors.New("the demo webhook's secret is not known yet")
	}
}

// deliver takes a delivery. The context of the calls that follow it is the server's, so
// that they outlive the request.
func (e *echo) deliver(ctx context.Context, d *receiver.Delivery) (receiver.Ack, error) {
	if e.deliveries.Add(1)%ackLater == 0 && e.ackSoon(context.WithoutCancel(ctx), d) {
		e.print(d, http.StatusAccepted)
		return receiver.Later(), nil
	}
	e.print(d, http.StatusOK)
	return receiver.Ack{}, nil
}

func (e *echo) report(_ *http.Request, status int, err error) { e.printf("%v -> %d", err, status) }

// ackSoon acks a delivery by POST /ack in a while, unless too many wait already or
// the end is near.
func (e *echo) ackSoon(ctx context.Context, d *receiver.Delivery) bool {
	select {
	case <-e.stopping:
		return false
	default:
	}
	select {
	case e.later <- struct{}{}:
	default:
		return false
	}
	place := fmt.Sprintf("%s/%d offsets %d..%d", d.Topic, d.Partition, d.FirstOffset, d.LastOffset)
	webhook, ticket := d.WebhookID, d.Ticket
	ticket.URL = "" // api.public_url may be another way to the same gateway
	e.acks.Go(func() {
		defer func() { <-e.later }()
		select {
		case <-time.After(ackAfter):
		case <-e.stopping:
		}
		e.printf("%s  POST /ack  %s -> %s", webhook, place, e.ack(ctx, ticket))
	})
	return true
}

// ack makes the call, and returns what it was answered.
func (e *echo) ack(ctx context.Context, t receiver.Ticket) string {
	receipt, err := e.acker.Ack(ctx, t)
	if refused, ok := errors.AsType[*receiver.Refusal](err); ok {
		return fmt.Sprintf("%d %s", refused.Status, refused.Code)
	}
	if err != nil {
		return err.Error()
	}
	return fmt.Sprintf("%d %s", http.StatusOK, receipt.Result)
}

// wait returns when no call is under way any more. Nothing may be delivered meanwhile.
func (e *echo) wait() {
	e.acks.Wait()
	e.acker.CloseIdleConnections()
}

func (e *echo) print(d *receiver.Delivery, status int) {
	signature := "signature not checked"
	if d.WebhookID == demoWebhook {
		signature = "signature ok"
	}
	first := &d.Records[0]
	preview := ""
	if first.Key != nil {
		preview = string(first.Key) + " "
	}
	var compact bytes.Buffer
	if json.Compact(&compact, first.Value) == nil {
		preview += compact.String()
	}
	if runes := []rune(preview); len(runes) > previewRunes {
		preview = string(runes[:previewRunes]) + "…"
	}
	records := "1 record"
	if d.RecordCount != 1 {
		records = fmt.Sprintf("%d records", d.RecordCount)
	}
	e.printf("%s  %s/%d offsets %d..%d  %s  attempt %d  %s -> %d  %s",
		d.WebhookID, d.Topic, d.Partition, d.FirstOffset, d.LastOffset, records, d.Attempt, signature, status, preview)
}

// printf writes one line with the time before it. What came over the network must
// not be able to steer the terminal.
func (e *echo) printf(format string, args ...any) {
	line := strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return -1
		}
		return r
	}, fmt.Sprintf(format, args...))
	e.printing.Lock()
	defer e.printing.Unlock()
	fmt.Fprintf(e.out, "%s  %s\n", time.Now().Format(time.TimeOnly), line)
}
