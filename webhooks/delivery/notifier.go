package delivery

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"go.opentelemetry.io/otel/trace"
)

// Types of lifecycle calls; see contract section 6.
const (
	PartitionsAssigned = "kafka.partitions.assigned" // nothing of them is delivered before a 2xx
	PartitionsRevoked  = "kafka.partitions.revoked"  // drained and committed
	PartitionsLost     = "kafka.partitions.lost"     // somebody else may have them already
)

// Notice is what a lifecycle call tells.
type Notice struct {
	Type       string
	Generation int32 // the group's, at the assignment or when the partitions go
	Partitions []Partition
	Now        time.Time // wall clock: webhook-timestamp and the body's timestamp
}

// Partition names a partition of a topic.
type Partition struct {
	Topic     string `json:"topic"`
	Partition int32  `json:"partition"`
}

// Notifier makes the lifecycle calls of one webhook, signed and sent as deliveries
// are. All methods may be called concurrently. Close waits for nothing and drops
// idle connections.
type Notifier struct {
	*endpoint
	webhookID, groupID string
}

// NewNotifier makes the notifier of a webhook that has a lifecycle URL. It fails
// without one, or when it cannot be sent to or a header cannot be sent.
func NewNotifier(cfg Config) (*Notifier, error) {
	w := cfg.Webhook
	if w.Lifecycle == nil {
		return nil, fmt.Errorf("webhook %q: there is no lifecycle url", w.ID)
	}
	d, err := dialerOf(cfg)
	if err != nil {
		return nil, err
	}
	e, err := newEndpoint(cfg, d, "lifecycle url", w.Lifecycle.URL, fixedHeaders(cfg, envelopeType))
	if err != nil {
		return nil, err
	}
	if err := e.authenticate(cfg); err != nil {
		e.Close()
		return nil, err
	}
	return &Notifier{endpoint: e, webhookID: w.ID, groupID: w.GroupID}, nil
}

// Notify makes one attempt of a lifecycle call, bounded by the webhook's request
// timeout and ctx; id is that of the call, the same on each attempt. It never
// returns an error: a 2xx is Acked, whatever its body says, unless that is cut
// short, and any other outcome is a failed attempt whose Result tells why.
func (n *Notifier) Notify(ctx context.Context, id string, c Notice) Result {
	began := time.Now()
	body := n.body(c)
	within, span := n.startSpan(ctx, 1, len(body))

	r := n.requests.Get().(*request)
	r.begin(n.endpoint, id, c.Now)
	r.number("kpush-generation", int64(c.Generation))
	r.end(n.endpoint, id, c.Now, trace.SpanContextFromContext(within), body)
	ans, code := n.exchange(within, r, body, began.Add(n.timeout))
	res := Result{Verdict: Failed, Code: code}
	if code == "" {
		res = ans.judgeCall(time.Now())
	}
	n.requests.Put(r)
	return res.since(began, span)
}

// body is the JSON of a lifecycle call.
func (n *Notifier) body(c Notice) []byte {
	body, err := json.Marshal(struct {
		Type       string      `json:"type"`
		Timestamp  string      `json:"timestamp"`
		WebhookID  string      `json:"webhook_id"`
		GroupID    string      `json:"group_id"`
		Generation int32       `json:"generation"`
		Partitions []Partition `json:"partitions"`
	}{c.Type, c.Now.UTC().Format(envelopeTime), n.webhookID, n.groupID, c.Generation, c.Partitions})
	if err != nil {
		panic(fmt.Sprintf("delivery: encoding a lifecycle call: %v", err)) // strings and numbers
	}
	return body
}
