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

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
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

// echo is the receiver of "gateway dev": what a receiver has to do, in one file.
// It checks the signature, prints the delivery, and answers 200 or, every third
// time, 202 with a POST /ack later.
type echo struct {
	ackURL string // set before the first delivery
	client *http.Client
	out    io.Writer

	// stopping is closed when the gateway begins to drain: acks still due go at once,
	// and no delivery is answered 202 any more.
	stopping <-chan struct{}

	// verifier checks the demo webhook's signatures; nil until trusted is closed.
	verifier atomic.Pointer[standardwebhooks.Webhook]
	trusted  chan struct{}
	trusting sync.Once

	deliveries atomic.Int64
	later      chan struct{} // a slot for each ack under way
	acks       sync.WaitGroup
	printing   sync.Mutex
}

func newEcho(out io.Writer, stopping <-chan struct{}) *echo {
	return &echo{
		stopping: stopping,
		client:   &http.Client{Timeout: ackTimeout},
		out:      out,
		trusted:  make(chan struct{}),
		later:    make(chan struct{}, maxLaterAcks),
	}
}

// trust sets the secret (whsec_...) of the demo webhook.
func (e *echo) trust(secret string) error {
	v, err := standardwebhooks.NewWebhook(secret)
	if err != nil {
		return fmt.Errorf("the demo webhook's secret: %w", err)
	}
	e.verifier.Store(v)
	e.trusting.Do(func() { close(e.trusted) })
	return nil
}

// delivered is what the echo receiver looks at of a delivery.
type delivered struct {
	WebhookID   string `json:"webhook_id"`
	Attempt     int    `json:"attempt"`
	Topic       string `json:"topic"`
	Partition   int32  `json:"partition"`
	FirstOffset int64  `json:"first_offset"`
	LastOffset  int64  `json:"last_offset"`
	RecordCount int    `json:"record_count"`
	Ack         struct {
		Token string `json:"token"`
	} `json:"ack"`
	Records []struct {
		Key   *string         `json:"key"`
		Value json.RawMessage `json:"value"`
	} `json:"records"`
}

// ServeHTTP takes a delivery. The context of the calls that follow it is the
// server's, so that they outlive the request.
func (e *echo) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost {
		http.Error(w, "POST deliveries here", http.StatusMethodNotAllowed)
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxEchoBody))
	if err != nil {
		http.Error(w, "the body did not come whole", http.StatusBadRequest)
		return
	}
	signature, ok := e.check(r.Context(), r.Header, body)
	if !ok {
		e.printf("%s -> 401", signature)
		http.Error(w, signature, http.StatusUnauthorized)
		return
	}
	var d delivered
	if err := json.Unmarshal(body, &d); err != nil {
		e.printf("a body that is not an envelope -> 400")
		http.Error(w, "not an envelope", http.StatusBadRequest)
		return
	}
	status := http.StatusOK
	if e.deliveries.Add(1)%ackLater == 0 && e.ackSoon(context.WithoutCancel(r.Context()), d) {
		status = http.StatusAccepted
	}
	e.print(d, signature, status)
	w.WriteHeader(status)
}

// check verifies a signature as every receiver should. Only the demo webhook's
// secret is known here: those of others were told to whoever registered them. The
// first delivery may be faster than the answer that tells the secret; it waits.
func (e *echo) check(ctx context.Context, header http.Header, body []byte) (verdict string, ok bool) {
	if header.Get("kpush-webhook") != demoWebhook {
		return "signature not checked", true
	}
	select {
	case <-e.trusted:
	case <-ctx.Done():
		return "signature not checked: its secret is not known", false
	}
	if err := e.verifier.Load().Verify(body, header); err != nil {
		return "signature wrong: " + err.Error(), false
	}
	return "signature ok", true
}

// ackSoon acks a delivery by POST /ack in a while, unless too many wait already or
// the end is near.
func (e *echo) ackSoon(ctx context.Context, d delivered) bool {
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
	e.acks.Go(func() {
		defer func() { <-e.later }()
		select {
		case <-time.After(ackAfter):
		case <-e.stopping:
		}
		answer, err := e.ack(ctx, d.Ack.Token)
		if err != nil {
			answer = err.Error()
		}
		e.printf("%s  POST /ack  %s/%d offsets %d..%d -> %s", d.WebhookID, d.Topic, d.Partition, d.FirstOffset, d.LastOffset, answer)
	})
	return true
}

// ack makes the call; the token in the body is all the credential it needs.
func (e *echo) ack(ctx context.Context, token string) (string, error) {
	body, err := json.Marshal(map[string]string{"token": token})
	if err != nil {
		return "", err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, e.ackURL, bytes.NewReader(body))
	if err != nil {
		return "", err
	}
	req.Header.Set("content-type", "application/json")
	resp, err := e.client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	var answer struct{ Result, Code string }
	err = json.NewDecoder(io.LimitReader(resp.Body, 1<<16)).Decode(&answer)
	if err != nil {
		return "", errors.New(resp.Status)
	}
	return fmt.Sprintf("%d %s%s", resp.StatusCode, answer.Result, answer.Code), nil
}

// wait returns when no call is under way any more. Nothing may be delivered meanwhile.
func (e *echo) wait() {
	e.acks.Wait()
	e.client.CloseIdleConnections()
}

func (e *echo) print(d delivered, signature string, status int) {
	preview := ""
	if len(d.Records) > 0 {
		var compact bytes.Buffer
		if key := d.Records[0].Key; key != nil {
			preview = *key + " "
		}
		if json.Compact(&compact, d.Records[0].Value) == nil {
			preview += compact.String()
		}
		if runes := []rune(preview); len(runes) > previewRunes {
			preview = string(runes[:previewRunes]) + "…"
		}
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
