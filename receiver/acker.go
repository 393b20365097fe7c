package receiver

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
)

const (
	defaultAckTimeout = 40 * time.Second // the gateway gives itself 30 s
	defaultMaxWait    = 10 * time.Second
	defaultPause      = time.Second // where no Retry-After says how long

	// What the gateway takes in one call: contract 5.2, and 1 MiB of any body.
	maxAcks    = 1000
	maxAckBody = 1 << 20

	// maxAckAnswer is how much of an answer is read: some times that of 1,000 acks.
	maxAckAnswer = 2 << 20
)

// ErrForeignOrigin means that a delivery wants its ack at another origin than the
// one that the Acker was configured with. It is not sent anywhere.
var ErrForeignOrigin = errors.New("the delivery's ack.url is not at the configured gateway")

// Wait says when an ack is answered.
type Wait string

// Waits.
const (
	WaitCommit Wait = "commit" // once Kafka has confirmed a commit that covers it
	WaitAccept Wait = "accept" // once it is recorded; it will be in the next commit
)

// AckerConfig is what an Acker is made from.
type AckerConfig struct {
	// Gateway is the base URL of the gateway as its api.public_url has it:
	// "https://gw.example.com". POST /ack is under it. Required.
	Gateway string

	// Client makes the calls. Its CheckRedirect is not used: no redirect is followed.
	// Default: one with http.DefaultTransport.
	Client *http.Client

	// Timeout bounds one call, with its answer. Default 40s.
	Timeout time.Duration

	// Wait says when the gateway answers. Default WaitCommit.
	Wait Wait

	// Retries is how often an ack is sent again that was answered with ErrUnavailable,
	// such as ErrNoOwner, after what Retry-After says. Default 0.
	Retries int

	// MaxWait cuts what Retry-After says. Default 10s.
	MaxWait time.Duration
}

// Acker tells the gateway what became of deliveries, by POST /ack. An ack is sent to
// the configured gateway and nowhere else: the URL in a delivery, which a forged one
// chooses, is only compared. Where deliveries name an origin that is not the one by
// which this service reaches the gateway, take the URL out of their tickets.
//
// An error is ErrForeignOrigin, ErrAck, a *Refusal, ErrAnswer, or of the transport.
// After the last two it is not known whether the ack was counted; sending it again is
// safe. No error has the token in it. All methods may be called concurrently.
type Acker struct {
	client  http.Client
	origin  string
	ack     string // URL
	timeout time.Duration
	retries int
	maxWait time.Duration
}

// NewAcker makes an Acker. It fails if the URL is not an http or https one with a host,
// without user, query and fragment, and for an unknown Wait.
func NewAcker(cfg AckerConfig) (*Acker, error) {
	base, err := url.Parse(cfg.Gateway)
	if err != nil || (base.Scheme != "http" && base.Scheme != "https") || base.Hostname() == "" ||
		base.User != nil || base.RawQuery != "" || base.Fragment != "" {
		return nil, errors.New("the gateway's url is not an http or https url of a host") // it may hold a password
	}
	a := &Acker{
		origin: originOf(base), ack: strings.TrimRight(base.String(), "/?#") + "/ack",
		timeout: cfg.Timeout, retries: cfg.Retries, maxWait: cfg.MaxWait,
	}
	switch cfg.Wait {
	case "", WaitCommit:
	case WaitAccept:
		a.ack += "?wait=" + string(WaitAccept)
	default:
		return nil, fmt.Errorf("there is no wait %q", cfg.Wait)
	}
	if cfg.Client != nil {
		a.client = *cfg.Client
	}
	a.client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	if a.timeout <= 0 {
		a.timeout = defaultAckTimeout
	}
	if a.maxWait <= 0 {
		a.maxWait = defaultMaxWait
	}
	return a, nil
}

// originOf is scheme, host and port of a URL (RFC 6454).
func originOf(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	return u.Scheme + "://" + strings.ToLower(u.Hostname()) + ":" + port
}

// Ack acks a whole delivery.
func (a *Acker) Ack(ctx context.Context, t Ticket) (Receipt, error) { return a.Send(ctx, t, AckAll()) }

// AckUpTo acks the head of a delivery: see the function AckUpTo.
func (a *Acker) AckUpTo(ctx context.Context, t Ticket, offset int64) (Receipt, error) {
	return a.Send(ctx, t, AckUpTo(offset))
}

// Nack asks for a delivery again: see the function Nack.
func (a *Acker) Nack(ctx context.Context, t Ticket, delay time.Duration, reason string) (Receipt, error) {
	return a.Send(ctx, t, Nack(delay, reason))
}

// Extend sets a delivery's deadline to d from now: see the function Extend.
func (a *Acker) Extend(ctx context.Context, t Ticket, d time.Duration) (Receipt, error) {
	return a.Send(ctx, t, Extend(d))
}

// Reject gives a delivery up: see the function Reject.
func (a *Acker) Reject(ctx context.Context, t Ticket, reason string) (Receipt, error) {
	return a.Send(ctx, t, Reject(reason))
}

// Partial acks all records of a delivery but some: see the function Partial.
func (a *Acker) Partial(ctx context.Context, t Ticket, failures ...Failure) (Receipt, error) {
	return a.Send(ctx, t, Partial(failures...))
}

// Send sends any Ack but Later; the zero Ack is AckAll.
func (a *Acker) Send(ctx context.Context, t Ticket, ack Ack) (Receipt, error) {
	body, err := a.encode(t, ack)
	if err != nil {
		return Receipt{}, err
	}
	for try := 0; ; try++ {
		receipt, err := a.send(ctx, body)
		refused, ok := errors.AsType[*Refusal](err)
		if !ok || !refused.again() || try >= a.retries || !a.pause(ctx, refused.RetryAfter) {
			return receipt, err
		}
	}
}

func (a *Acker) send(ctx context.Context, body []byte) (Receipt, error) {
	r, err := a.post(ctx, body)
	if err != nil {
		return Receipt{}, err
	}
	var said answer
	if err := r.decode(&said); err != nil {
		return Receipt{}, err
	}
	return said.receipt(r.status)
}

// Statement is an Ack about the delivery of a ticket.
type Statement struct {
	Ticket Ticket
	Ack    Ack
}

// Answer is what became of a Statement.
type Answer struct {
	Receipt Receipt
	Err     error
}

// SendAll sends any number of acks in as few calls as the gateway allows, and returns
// the answer to each, in the same order. No ack fails another; of two that contradict
// each other about one delivery, either may win.
func (a *Acker) SendAll(ctx context.Context, statements []Statement) []Answer {
	answers := make([]Answer, len(statements))
	pending := make([]item, 0, len(statements))
	for i, s := range statements {
		body, err := a.encode(s.Ticket, s.Ack)
		if err != nil {
			answers[i].Err = err
			continue
		}
		pending = append(pending, item{i, body})
	}
	for try := 0; len(pending) > 0; try++ {
		var again []item
		var wait time.Duration
		for rest := pending; len(rest) > 0; {
			var call []item
			call, rest = firstCall(rest)
			a.sendList(ctx, call, answers)
			for _, it := range call {
				if refused, ok := errors.AsType[*Refusal](answers[it.index].Err); ok && refused.again() {
					again, wait = append(again, it), max(wait, refused.RetryAfter)
				}
			}
		}
		if len(again) == 0 || try >= a.retries || !a.pause(ctx, wait) {
			break
		}
		pending = again
	}
	return answers
}

// item is one ack of a list: where its answer goes, and its JSON.
type item struct {
	index int
	body  json.RawMessage
}

// firstCall takes off as many items as go in one call.
func firstCall(items []item) (call, rest []item) {
	size := len(`{"acks":[]}`)
	for i, it := range items {
		if size += len(it.body) + 1; i > 0 && (i == maxAcks || size > maxAckBody) {
			return items[:i], items[i:]
		}
	}
	return items, nil
}

// sendList makes one call and enters its answers.
func (a *Acker) sendList(ctx context.Context, call []item, answers []Answer) {
	said, err := a.list(ctx, call)
	for i, it := range call {
		if err != nil {
			answers[it.index] = Answer{Err: err}
			continue
		}
		receipt, err := said[i].receipt(said[i].Status)
		answers[it.index] = Answer{receipt, err}
	}
}

func (a *Acker) list(ctx context.Context, call []item) ([]answer, error) {
	var body struct {
		Acks []json.RawMessage `json:"acks"`
	}
	for _, it := range call {
		body.Acks = append(body.Acks, it.body)
	}
	text, err := json.Marshal(body)
	if err != nil {
		return nil, fmt.Errorf("encoding acks: %w", err)
	}
	r, err := a.post(ctx, text)
	if err != nil {
		return nil, err
	}
	var said struct {
		Results []answer `json:"results"`
	}
	if err := r.decode(&said); err != nil {
		return nil, err
	}
	if len(said.Results) != len(call) {
		return nil, fmt.Errorf("%w: %d results for %d acks", ErrAnswer, len(said.Results), len(call))
	}
	return said.Results, nil
}

// encode checks where an ack wants to go, and makes its JSON.
func (a *Acker) encode(t Ticket, ack Ack) (json.RawMessage, error) {
	if t.Token == "" {
		return nil, fmt.Errorf("%w: the ticket has no token", ErrAck)
	}
	if t.URL != "" {
		u, err := url.Parse(t.URL)
		if err != nil || u.User != nil || originOf(u) != a.origin {
			return nil, fmt.Errorf("%w, %s", ErrForeignOrigin, a.origin)
		}
	}
	s, err := ack.statement()
	if err != nil {
		return nil, err
	}
	s.Token = t.Token
	body, err := json.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("encoding an ack: %w", err)
	}
	return body, nil
}

// post makes one call and reads its answer.
func (a *Acker) post(ctx context.Context, body []byte) (*response, error) {
	ctx, cancel := context.WithTimeout(ctx, a.timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, a.ack, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("posting an ack: %w", err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/json, application/problem+json")
	resp, err := a.client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("posting an ack: %w", err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxAckAnswer+1))
	if err != nil {
		return nil, fmt.Errorf("reading the answer to an ack: %w", err)
	}
	if len(text) > maxAckAnswer {
		return nil, fmt.Errorf("%w: it is longer than %d bytes", ErrAnswer, maxAckAnswer)
	}
	return &response{resp.StatusCode, resp.Header, text}, nil
}

// pause waits for d, or a second where nothing was said, and returns false if ctx
// ends first.
func (a *Acker) pause(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		d = defaultPause
	}
	timer := time.NewTimer(min(d, a.maxWait))
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// CloseIdleConnections drops the connections that no call is using, for a process
// that ends.
func (a *Acker) CloseIdleConnections() { a.client.CloseIdleConnections() }
