package delivery

import (
	"context"
	"net/http"
	"time"

	"go.opentelemetry.io/otel/trace"
)

// Attempt is what differs from one attempt to the next.
type Attempt struct {
	Number     int   // from 1
	Generation int32 // the group's generation now
	Token      string
	Now        time.Time // wall clock: webhook-timestamp and the body's timestamp
}

// Send makes one attempt, bounded by the webhook's request timeout and ctx. It
// never returns an error: whatever went wrong is a Result. The span in ctx
// becomes the parent of the attempt's own.
func (c *Client) Send(ctx context.Context, m *Message, a Attempt) Result {
	began := time.Now()
	body := m.body(a)
	within, span := c.startSpan(ctx, a, len(body))

	r := c.requests.Get().(*request)
	r.lay(c, m, a, trace.SpanContextFromContext(within), body)
	res := c.exchange(within, r, body, began.Add(c.timeout))
	c.requests.Put(r)
	res.At = time.Now()
	res.Took = res.At.Sub(began)
	endSpan(span, res)
	return res
}

// exchange sends the request that r holds and judges the answer. When an idle
// connection turns out to be closed before any byte was written to it, another is
// taken, and in no other case.
func (c *Client) exchange(ctx context.Context, r *request, body []byte, deadline time.Time) Result {
	for {
		if ctx.Err() != nil {
			return Result{Verdict: Failed, Code: CodeCanceled}
		}
		w := c.wires.take()
		idle := w != nil
		if !idle {
			var err error
			if w, err = c.dialer.dial(ctx, c.address, c.secure, deadline); err != nil {
				return Result{Verdict: Failed, Code: transportCode(ctx, deadline, err)}
			}
		}
		free := context.AfterFunc(ctx, w.interrupt)
		resp, written, err := w.exchange(ctx, r.head, body, deadline)
		if err != nil {
			free()
			w.close()
			if idle && !written && ctx.Err() == nil && time.Now().Before(deadline) {
				continue
			}
			return Result{Verdict: Failed, Code: transportCode(ctx, deadline, err)}
		}
		return c.conclude(ctx, w, r, resp, deadline, free)
	}
}

// conclude reads the rest of the answer and judges it. The connection is kept if
// the answer was read to its end and both sides want it.
func (c *Client) conclude(ctx context.Context, w *wire, r *request, resp *http.Response, deadline time.Time, free func() bool) Result {
	ans := newAnswer(resp.StatusCode, resp.Header)
	if resp.StatusCode != http.StatusSwitchingProtocols {
		// After a switch of protocols what comes is not HTTP.
		if err := ans.read(resp, r); err != nil {
			ans.broken = bodyCode(ctx, deadline, err)
		}
	}
	if free() && ans.whole && !resp.Close {
		c.wires.put(w)
	} else {
		w.close()
	}
	return ans.judge(c.explicit, time.Now())
}
