package delivery

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/trace"
)

// Attempt is what differs from one attempt to the next.
type Attempt struct {
	Number     int   // from 1
	Generation int32 // the group's generation now
	Token      string
	Now        time.Time // wall clock: webhook-timestamp and the body's timestamp
	Sample     bool      // what is sent is invented, and says so
}

// Send makes one attempt, bounded by the webhook's request timeout and ctx. It
// never returns an error: whatever went wrong is a Result. The span in ctx
// becomes the parent of the attempt's own.
func (c *Client) Send(ctx context.Context, m *Message, a Attempt) Result {
	began := time.Now()
	body := m.body(a)
	within, span := c.startSpan(ctx, a.Number, len(body))

	r := c.requests.Get().(*request)
	r.lay(c.endpoint, m, a, trace.SpanContextFromContext(within), body)
	ans, code := c.exchange(within, r, body, began.Add(c.timeout))
	res := Result{Verdict: Failed, Code: code}
	if code == "" {
		res = ans.judge(c.explicit, time.Now())
		if ans.looped(c.loop) {
			res.Verdict, res.Code = Looped, CodeLoop
		}
	}
	c.requests.Put(r)
	return res.since(began, span)
}

// since completes the result of an attempt that began then, and ends its span,
// which may be nil.
func (res Result) since(began time.Time, span trace.Span) Result {
	res.At = time.Now()
	res.Took = res.At.Sub(began)
	endSpan(span, res)
	return res
}
