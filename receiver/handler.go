package receiver

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"runtime/debug"
	"time"
)

const (
	// DefaultMaxBody is the longest body that a Handler takes by default: the largest
	// batch that a webhook may ask for, 16 MiB, in base64 and with its envelope.
	DefaultMaxBody = 32 << 20

	// maxEarly is how much memory is taken on the word of Content-Length alone.
	maxEarly = 1 << 20

	headerWebhook = "Kpush-Webhook"
)

var (
	errMethod  = errors.New("the method is not POST")
	errTooLong = errors.New("the body is too long")
	errBody    = errors.New("the body did not come whole")
	errForeign = errors.New("the body is of another webhook than kpush-webhook says")
	errSeen    = errors.New("dedupe did not answer for each record")
	errDeliver = errors.New("the handler has no Deliver")
)

// Handler takes deliveries, and lifecycle calls, at one URL: it bounds, verifies and
// reads a request, drops what was processed before, calls Deliver and answers what
// that says.
//
//	Deliver returns            the answer
//	the zero Ack               200
//	Later()                    202
//	any other Ack              200 and {"ack": {...}}
//	an error, or it panics     500
//
// A test, which POST /v1/webhooks/{id}/test sends, is answered 200 once it is verified;
// Deliver does not see it. What else is not for Deliver is answered 405, 413 (the
// gateway then sends the batch in halves), 415, 401 (unsigned, wrongly signed, too old,
// of a webhook that is not known) or 400. No answer tells why: Report is told.
//
// Deliveries may be in any format.type: see ParseRequest.
//
// It is safe for concurrent use, and its fields are not changed any more once it is
// used.
type Handler struct {
	// Secrets are what requests are signed with. Required, unless SecretsFor is there.
	Secrets Secrets

	// SecretsFor returns the secrets of one webhook instead, where several use one URL.
	// Nothing is known of the caller yet: webhook is what the request's header says of
	// itself. A request that then verifies is of that webhook. The zero Secrets
	// refuse it; an error is answered 500, so that it comes again.
	SecretsFor func(ctx context.Context, webhook string) (Secrets, error)

	// Deliver processes the records of one delivery. Required. Its context ends when
	// the gateway gives the request up, after the webhook's request.timeout_ms. It is
	// called from many goroutines at once, for one partition too unless the webhook's
	// ordering is "partition".
	Deliver func(ctx context.Context, d *Delivery) (Ack, error)

	// Notify takes lifecycle calls. An error is answered 500; one that tells of an
	// assignment then comes again. Default: they are answered 200.
	Notify func(ctx context.Context, n *Notice) error

	// Dedupe drops records that were processed before. A delivery of which nothing is
	// left is acked without a call of Deliver. Default: all go to Deliver.
	Dedupe Dedupe

	// Report is told of each request that was not answered as Deliver would have it,
	// and why: what the sender did wrong, or the error or panic that was answered 500.
	// Default: slog.Default() gets the latter as errors, the rest at debug.
	Report func(r *http.Request, status int, err error)

	// Tolerance is how far webhook-timestamp may be from our clock. Default 5m.
	Tolerance time.Duration

	// MaxBody is the longest body that is taken, in bytes, as it is sent and when it is
	// unpacked. Default 32 MiB.
	MaxBody int64

	// Decompress unpacks bodies in encodings that the standard library does not have,
	// "zstd" for one; "gzip" needs none. Nothing is unpacked that was not verified, and
	// no more than MaxBody is read. Default: they are answered 415.
	Decompress func(encoding string, packed io.Reader) (io.ReadCloser, error)

	// StringValues says that the webhook's format.value is "string": see ParseStrings.
	StringValues bool
}

// refusal is a request that is not answered as Deliver would have it.
type refusal struct {
	status int
	err    error
}

func (r *refusal) Error() string { return r.err.Error() }

func refuse(status int, err error) error { return &refusal{status, err} }

// ServeHTTP takes one request.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	ack, err := h.take(w, r)
	var body []byte
	if err == nil {
		body, err = inline(ack)
	}
	if err != nil {
		h.fail(w, r, err)
		return
	}
	switch {
	case ack.Outcome == OutcomeLater:
		w.WriteHeader(http.StatusAccepted)
	case body == nil:
		w.WriteHeader(http.StatusOK)
	default:
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(body) // fails only when the gateway is gone; it sends the delivery again
	}
}

// inline is the body of an answer that carries an ack, nil for one that needs none.
func inline(ack Ack) ([]byte, error) {
	if ack.Outcome == "" || ack.Outcome == OutcomeLater {
		return nil, nil
	}
	s, err := ack.statement()
	if err != nil {
		return nil, err
	}
	return json.Marshal(struct {
		Ack statement `json:"ack"`
	}{s})
}

// take does everything but the answer. An error that is no refusal is ours.
func (h *Handler) take(w http.ResponseWriter, r *http.Request) (Ack, error) {
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		return Ack{}, refuse(http.StatusMethodNotAllowed, errMethod)
	}
	body, err := h.verified(w, r)
	if err != nil {
		return Ack{}, err
	}
	if body, err = h.unpack(r.Header, body); err != nil {
		return Ack{}, err
	}
	if kind := formatOf(r.Header); kind != formatEnvelope {
		d, err := readDelivery(kind, r.Header, body, h.StringValues)
		if err != nil {
			return Ack{}, refuse(http.StatusBadRequest, err)
		}
		if isTest(r.Header) {
			return Ack{}, nil
		}
		return h.deliver(r.Context(), d)
	}
	e, err := decode(body)
	if err != nil {
		return Ack{}, refuse(http.StatusBadRequest, err)
	}
	if h.SecretsFor != nil && e.WebhookID != r.Header.Get(headerWebhook) {
		return Ack{}, refuse(http.StatusUnauthorized, errForeign)
	}
	if e.isNotice() {
		return Ack{}, h.notify(r, e)
	}
	if e.Type == typeTest {
		return Ack{}, nil
	}
	d, err := e.delivery(h.StringValues)
	if err != nil {
		return Ack{}, refuse(http.StatusBadRequest, err)
	}
	return h.deliver(r.Context(), d)
}

// verified reads a request's body and checks its signature. What the header alone
// shows to be wrong is refused before the body is read.
func (h *Handler) verified(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	secrets := h.Secrets
	if h.SecretsFor != nil {
		var err error
		if secrets, err = h.SecretsFor(r.Context(), r.Header.Get(headerWebhook)); err != nil {
			return nil, fmt.Errorf("finding the secrets of a webhook: %w", err)
		}
	}
	if secrets.unsigned {
		return h.read(w, r)
	}
	claim, err := Verifier{Secrets: secrets, Tolerance: h.Tolerance}.read(r.Header)
	if err != nil {
		return nil, refuse(http.StatusUnauthorized, err)
	}
	body, err := h.read(w, r)
	if err != nil {
		return nil, err
	}
	if err := claim.verify(secrets, body); err != nil {
		return nil, refuse(http.StatusUnauthorized, err)
	}
	return body, nil
}

func (h *Handler) longest() int64 {
	if h.MaxBody <= 0 {
		return DefaultMaxBody
	}
	return h.MaxBody
}

func (h *Handler) read(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	longest := h.longest()
	if r.ContentLength > longest {
		return nil, refuse(http.StatusRequestEntityTooLarge, errTooLong)
	}
	var body bytes.Buffer
	body.Grow(int(min(max(r.ContentLength, 0)+bytes.MinRead, maxEarly)))
	_, err := body.ReadFrom(http.MaxBytesReader(w, r.Body, longest))
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return nil, refuse(http.StatusRequestEntityTooLarge, errTooLong)
	}
	if err != nil {
		return nil, refuse(http.StatusBadRequest, fmt.Errorf("%w: %w", errBody, err))
	}
	return body.Bytes(), nil
}

func (h *Handler) notify(r *http.Request, e *envelope) error {
	n, err := e.notice()
	if err != nil {
		return refuse(http.StatusBadRequest, err)
	}
	if h.Notify == nil {
		return nil
	}
	n.ID = r.Header.Get(headerID)
	return guard(func() error { return h.Notify(r.Context(), n) })
}

func (h *Handler) deliver(ctx context.Context, d *Delivery) (ack Ack, err error) {
	if h.Deliver == nil {
		return Ack{}, errDeliver
	}
	err = guard(func() error {
		if h.Dedupe != nil {
			left, err := fresh(ctx, h.Dedupe, d)
			if err != nil {
				return fmt.Errorf("asking what was seen: %w", err)
			}
			if left == 0 {
				ack = AckAll() // a plain 200 would not do where ack.mode is explicit
				return nil
			}
		}
		if ack, err = h.Deliver(ctx, d); err != nil {
			return err
		}
		if err := ack.fits(d); err != nil {
			return err
		}
		if recorder, ok := h.Dedupe.(Recorder); ok {
			recorder.Processed(d, ack.processed(d))
		}
		return nil
	})
	return ack, err
}

// guard turns a panic into an error. The one by which net/http lets a handler cut the
// connection goes on.
func guard(f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			if p == http.ErrAbortHandler {
				panic(p)
			}
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	return f()
}

// fail answers a request that err is the end of.
func (h *Handler) fail(w http.ResponseWriter, r *http.Request, err error) {
	status := http.StatusInternalServerError
	if refused, ok := errors.AsType[*refusal](err); ok {
		status, err = refused.status, refused.err
	}
	if h.Report != nil {
		h.Report(r, status, err)
	} else {
		level := slog.LevelDebug
		if status == http.StatusInternalServerError {
			level = slog.LevelError
		}
		slog.Default().Log(r.Context(), level, "a delivery was refused", "status", status, "error", err)
	}
	http.Error(w, http.StatusText(status), status)
}
