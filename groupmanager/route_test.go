package groupmanager

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"go.opentelemetry.io/otel/metric/noop"

	"github.com/kpush/kpush/acker"
	"github.com/kpush/kpush/webhooks"
)

// emptyLog is a registry's log with nothing in it.
type emptyLog struct{ webhooks.Log }

func (emptyLog) Run(ctx context.Context, _ func(string, []byte, int64), caughtUp func()) error {
	caughtUp()
	<-ctx.Done()
	return nil
}

// unread is a replica that has no webhooks: its registry was read and is empty, or
// was not read yet.
func unread(t *testing.T, n *network, id string, read bool) *Manager {
	t.Helper()
	m := &Manager{
		peers:    n.seats[id],
		shared:   &shared{tokens: acker.NewTokens(make([]byte, 32)), logger: slog.New(slog.DiscardHandler)},
		registry: webhooks.NewRegistry(emptyLog{}, nil, slog.New(slog.DiscardHandler)),
		groups:   map[webhookKey]*group{},
		acks:     noop.Int64Counter{},
	}
	m.health.heard(time.Now())
	m.health.answers.Store(true)
	if read {
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		go func() { ended <- m.registry.Run(ctx) }()
		<-m.registry.Ready()
		t.Cleanup(func() {
			cancel()
			if err := <-ended; err != nil {
				t.Error(err)
			}
		})
	}
	return m
}

// 404 says that there is no such webhook, and a receiver may drop what it knows of
// it. A replica that has not read the registry, or is cut off, cannot say that.
func TestAnAckForAWebhookThatIsNotKnownHere(t *testing.T) {
	later := func(m *Manager) { m.health.heard(time.Now().Add(-leastAge)) }
	byOwner := func(a AckAnswer, err error) func(context.Context, AckRequest) (AckAnswer, error) {
		return func(context.Context, AckRequest) (AckAnswer, error) { return a, err }
	}
	cases := []struct {
		name   string
		unread bool
		change func(*Manager)
		owner  func(context.Context, AckRequest) (AckAnswer, error) // nil: there is none of the token's id
		fields error                                                // what an ack by fields comes to
		token  error
	}{
		{name: "before the registry was read", unread: true, fields: ErrNoOwner, token: ErrNoOwner},
		{name: "when it was read", fields: ErrWebhookNotFound, token: ErrWebhookNotFound},
		{name: "when it was read a while ago", change: later, fields: ErrNoOwner, token: ErrNoOwner},
		{name: "when no broker answers", change: func(m *Manager) { m.health.answers.Store(false) }, fields: ErrNoOwner, token: ErrNoOwner},
		{name: "and the sender of the delivery takes it", owner: byOwner(AckAnswer{Result: resultCommitted}, nil), fields: ErrWebhookNotFound},
		{name: "and the sender does, from a replica that is cut off", change: later, owner: byOwner(AckAnswer{Result: resultCommitted}, nil), fields: ErrNoOwner},
		{name: "and the sender knows of none either", change: later, owner: byOwner(AckAnswer{}, ErrWebhookNotFound), fields: ErrNoOwner, token: ErrWebhookNotFound},
		{name: "and the sender holds the partition no more", owner: byOwner(AckAnswer{}, ErrNoOwner), fields: ErrWebhookNotFound, token: ErrWebhookNotFound},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			n := newNetwork("b", "a", "b")
			if c.owner != nil {
				register(n.seats["b"], operationAck, c.owner)
			} else {
				delete(n.seats, "b")
			}
			m := unread(t, n, "a", !c.unread)
			if c.change != nil {
				c.change(m)
			}
			token := string(m.tokens.Append(nil, &acker.Token{Tenant: "default", Webhook: "billing", Topic: "orders", Owner: "b"}))
			if _, err := m.Ack(t.Context(), AckRequest{Token: token}); !errors.Is(err, c.token) || errors.Is(err, webhooks.ErrUnavailable) {
				t.Errorf("by token: %v, want %v", err, c.token)
			}
			for _, r := range []AckRequest{{WebhookID: "billing"}, {GroupID: "kpush.default.billing"}} {
				r.Tenant, r.Topic = "default", "orders"
				if _, err := m.Ack(t.Context(), r); !errors.Is(err, c.fields) {
					t.Errorf("by fields %+v: %v, want %v", r, err, c.fields)
				}
				// As it comes from another replica.
				if _, err := m.ackHeld(t.Context(), r); !errors.Is(err, c.fields) {
					t.Errorf("by fields, passed on: %v, want %v", err, c.fields)
				}
			}
		})
	}
}
