package delivery

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"sync"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/trace"

	"github.com/kpush/kpush/webhooks/egress"
)

// endpoint is one URL of a webhook, to which requests are sent over connections of
// its own. All methods may be called concurrently.
type endpoint struct {
	url      *url.URL
	port     uint16
	secure   bool
	start    []byte        // of every request
	timeout  time.Duration // of one attempt, from dial to the end of the answer
	signer   *Signer
	dialer   *dialer
	wires    wires
	unwatch  func()       // ends the watch over the guard's policy
	loop     string       // Config.LoopMarker
	tokens   *TokenSource // nil: none are shown
	tracer   trace.Tracer
	requests sync.Pool // of *request

	ownTokens *TokenSource // tokens, if it is closed with the endpoint
}

// newEndpoint makes the endpoint at a URL of cfg's webhook; name is that of the
// URL's field, for errors. It fails when the URL cannot be sent to or a header
// cannot be sent.
func newEndpoint(cfg Config, d *dialer, name, text string, headers []header) (*endpoint, error) {
	w := cfg.Webhook
	target, err := url.Parse(text)
	if err != nil {
		// The parser's message repeats the URL, which may carry a secret.
		return nil, fmt.Errorf("webhook %q: the %s cannot be parsed", w.ID, name)
	}
	if target.Scheme != "http" && target.Scheme != "https" || target.Hostname() == "" {
		return nil, fmt.Errorf("webhook %q: the %s is not an http or https url with a host", w.ID, name)
	}
	port, err := egress.Port(target)
	if err != nil {
		return nil, fmt.Errorf("webhook %q: the %s has no port that there is", w.ID, name)
	}
	for _, h := range headers {
		if !validHeader(h) {
			return nil, fmt.Errorf("webhook %q: header %q cannot be sent", w.ID, h.name)
		}
	}
	e := &endpoint{
		url:     target,
		port:    port,
		secure:  target.Scheme == "https",
		start:   requestStart(target, headers),
		timeout: w.Request.Timeout(),
		signer:  cfg.Signer,
		dialer:  d,
		loop:    cfg.LoopMarker,
		tracer:  otel.Tracer("github.com/kpush/kpush/webhooks/delivery"),
	}
	if e.signer == nil {
		e.signer = new(Signer)
	}
	e.requests.New = func() any { return new(request) }
	e.unwatch = d.guard.Watch(e.wires.drop)
	return e, nil
}

// Close drops idle connections. Attempts under way end as they would have.
func (e *endpoint) Close() {
	e.unwatch()
	e.wires.close()
	if e.ownTokens != nil {
		e.ownTokens.Close()
	}
}

// send sends the request that r holds and reads the answer; code is set when
// there was none. When an idle connection turns out to be closed before any byte
// was written to it, another is taken, and in no other case.
func (e *endpoint) send(ctx context.Context, r *request, body []byte, deadline time.Time) (ans answer, code string) {
	for {
		if ctx.Err() != nil {
			return answer{}, CodeCanceled
		}
		w := e.wires.take()
		idle := w != nil
		if !idle {
			age := e.wires.age() // before the policy is looked at: a change of it meanwhile makes w too old
			var err error
			if w, err = e.dialer.dial(ctx, e.url.Hostname(), e.port, e.secure, deadline); err != nil {
				return answer{}, transportCode(ctx, deadline, err)
			}
			w.age = age
		}
		free := context.AfterFunc(ctx, w.interrupt)
		resp, written, err := w.exchange(ctx, r.head, body, deadline)
		if err != nil {
			free()
			w.close()
			if idle && !written && ctx.Err() == nil && time.Now().Before(deadline) {
				continue
			}
			return answer{}, transportCode(ctx, deadline, err)
		}
		return e.conclude(ctx, w, r, resp, deadline, free), ""
	}
}

// conclude reads the rest of the answer. The connection is kept if the answer was
// read to its end and both sides want it.
func (e *endpoint) conclude(ctx context.Context, w *wire, r *request, resp *http.Response, deadline time.Time, free func() bool) answer {
	ans := newAnswer(resp.StatusCode, resp.Header)
	if resp.StatusCode != http.StatusSwitchingProtocols {
		// After a switch of protocols what comes is not HTTP.
		if err := ans.read(resp, r); err != nil {
			ans.broken = bodyCode(ctx, deadline, err)
		}
	}
	if free() && ans.whole && !resp.Close {
		e.wires.put(w)
	} else {
		w.close()
	}
	return ans
}
