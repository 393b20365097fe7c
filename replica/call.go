package replica

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"strconv"
	"sync/atomic"
	"time"
)

const (
	// callPath is where operations are called: POST <url>/internal/v1/<operation>.
	callPath = "/internal/v1/"

	// callTimeout bounds a call whose context has no deadline.
	callTimeout = 10 * time.Second

	maxCall   = 2 << 20 // bytes of what is asked
	maxAnswer = 4 << 20 // bytes of what is answered

	dialTimeout = 3 * time.Second
	// idleTimeout is below that of the server, which must not close a connection
	// that a call has just been written to.
	idleTimeout     = time.Minute
	idleConnections = 256 // to one peer; acks come many at a time
	maxHeaderBytes  = 64 << 10
)

// answer is what a call comes to: a result, or a code and what it has to say.
type answer struct {
	Result json.RawMessage `json:"result,omitempty"`
	Code   string          `json:"code,omitempty"`
	Data   json.RawMessage `json:"data,omitempty"`
}

// codeInternal is the code of an answer that is neither a result nor a Refusal: the
// peer does not say what it has done, and what has not.
const codeInternal = "internal"

func newTransport() *http.Transport {
	return &http.Transport{
		DialContext:            (&net.Dialer{Timeout: dialTimeout}).DialContext,
		TLSHandshakeTimeout:    dialTimeout,
		MaxIdleConnsPerHost:    idleConnections,
		IdleConnTimeout:        idleTimeout,
		MaxResponseHeaderBytes: maxHeaderBytes,
		DisableCompression:     true,
	}
}

// Call makes one authenticated request to a peer, without retry or redirect. in
// and out are JSON; out may be nil. A context without a deadline gets callTimeout.
// Errors are *Refusal; ErrUnreachable, among them ErrNotSent; and ErrUnreachable
// together with ctx's own.
func (r *Replica) Call(ctx context.Context, to Peer, operation string, in, out any) error {
	err := r.call(ctx, to, operation, in, out)
	if _, refused := errors.AsType[*Refusal](err); refused || err == nil {
		return err
	}
	return fmt.Errorf("calling %s of replica %s: %w", operation, to.ID, err)
}

func (r *Replica) call(parent context.Context, to Peer, operation string, in, out any) error {
	ctx := parent
	if _, bounded := ctx.Deadline(); !bounded {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, callTimeout)
		defer cancel()
	}
	body, err := json.Marshal(in)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNotSent, err)
	}
	if len(body) > maxCall {
		return fmt.Errorf("%w: %d bytes are more than the %d that a replica takes", ErrNotSent, len(body), maxCall)
	}
	status, of, got, err := r.exchange(ctx, to, operation, body)
	if err != nil {
		if parent.Err() != nil {
			return fmt.Errorf("%w: %w", err, parent.Err())
		}
		return err
	}
	if !r.keys.verify(of.signature, anAnswer, answerWords(of.nonce, status), got) {
		return fmt.Errorf("%w: status %d and no signature of an answer to this call: the keys differ, the clocks do, or it is somebody else", ErrUnreachable, status)
	}
	var a answer
	if err := json.Unmarshal(got, &a); err != nil {
		return fmt.Errorf("%w: its answer cannot be read: %w", ErrUnreachable, err)
	}
	switch {
	case a.Code == codeInternal:
		return fmt.Errorf("%w: it failed over the call", ErrUnreachable)
	case a.Code != "":
		return &Refusal{Code: a.Code, Data: a.Data}
	case out != nil:
		if err := json.Unmarshal(a.Result, out); err != nil {
			return fmt.Errorf("%w: its answer cannot be read: %w", ErrUnreachable, err)
		}
	}
	return nil
}

// proof is what an answer is verified with.
type proof struct {
	nonce     string // of the call
	signature string // of the answer
}

// exchange sends a call and reads its answer. Its errors are ErrUnreachable and
// ErrNotSent, and never a context's: it may be of our own making.
func (r *Replica) exchange(ctx context.Context, to Peer, operation string, body []byte) (int, proof, []byte, error) {
	var connected atomic.Bool
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn: func(httptrace.GotConnInfo) { connected.Store(true) },
	})
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, to.URL+callPath+operation, bytes.NewReader(body))
	if err != nil {
		return 0, proof{}, nil, fmt.Errorf("%w: %v", ErrNotSent, err)
	}
	nonce, seconds := newNonce(), strconv.FormatInt(time.Now().Unix(), 10)
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set(timeHeader, seconds)
	req.Header.Set(nonceHeader, nonce)
	req.Header.Set(signatureHeader, r.keys.sign(aCall, callWords(to.ID, req.Method, req.URL.EscapedPath(), seconds, nonce), body))
	// The transport follows no redirects, and repeats no request that it has written
	// a byte of: a POST is not idempotent.
	resp, err := r.transport.RoundTrip(req)
	if err != nil {
		if !connected.Load() {
			return 0, proof{}, nil, fmt.Errorf("%w: %v", ErrNotSent, err)
		}
		return 0, proof{}, nil, fmt.Errorf("%w: %v", ErrUnreachable, err)
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	switch {
	case err != nil:
		return 0, proof{}, nil, fmt.Errorf("%w: reading its answer: %v", ErrUnreachable, err)
	case len(got) > maxAnswer:
		return 0, proof{}, nil, fmt.Errorf("%w: its answer has more than %d bytes", ErrUnreachable, maxAnswer)
	}
	return resp.StatusCode, proof{nonce, resp.Header.Get(signatureHeader)}, got, nil
}
