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
	within, cancel := context.WithTimeout(within, c.timeout)
	defer cancel()

	r := c.requests.Get().(*request)
	r.fill(c, m, a, trace.SpanContextFromContext(within), body)
	res := c.exchange(ctx, within, r)
	if r.idle() {
		r.reset()
		c.requests.Put(r)
	} else {
		m.lent = true // r and the bytes go to the collector when net/http is done with them
	}
	res.At = time.Now()
	res.Took = res.At.Sub(began)
	endSpan(span, res)
	return res
}

// exchange sends r and judges the answer. outer is the caller's context, within
// the one with the attempt's deadline.
func (c *Client) exchange(outer, within context.Context, r *request) Result {
	resp, err := r.send(within, c)
	if err != nil {
		return Result{Verdict: Failed, Code: transportCode(outer, within, err)}
	}
	defer resp.Body.Close()
	ans := newAnswer(resp.StatusCode, resp.Header)
	if resp.StatusCode != http.StatusSwitchingProtocols {
		// A body after a switch of protocols would obey no deadline.
		if err := ans.read(resp, r); err != nil {
			ans.broken = bodyCode(outer, within, err)
		}
	}
	return ans.judge(c.explicit, time.Now())
}
