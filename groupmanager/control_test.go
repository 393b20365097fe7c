package groupmanager

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/kpush/kpush/webhooks"
)

// TestNoWebhookGetsAtTheRegistry: whatever it is called, the registry's topic was
// taken for a webhook's, whose records it sent out, and for dead letters, which it
// wrote past the leader's fence into the one truth of all replicas.
func TestNoWebhookGetsAtTheRegistry(t *testing.T) {
	const registry = "acme.kpush"
	m := &Manager{shared: &shared{cfg: Config{RegistryTopic: registry}}} // without a cluster: Kafka is not asked
	for _, test := range []struct {
		claim  string
		topics []string
		dead   string
		want   []string
	}{
		{"among the topics", []string{"orders", registry}, "orders.dead", []string{"/topics/1"}},
		{"as the dead letter topic", []string{"orders"}, registry, []string{"/dead_letter/topic"}},
		{"as the dead letter topic of a pattern", []string{"^acme\\.orders"}, registry, []string{"/dead_letter/topic"}},
		{"as both", []string{registry}, registry, []string{"/topics/0", "/dead_letter/topic"}},
	} {
		t.Run(test.claim, func(t *testing.T) {
			w := webhooks.Webhook{Topics: test.topics, DeadLetter: webhooks.DeadLetter{Topic: &test.dead}}
			_, err := m.checkTopics(t.Context(), w)
			e, ok := errors.AsType[*webhooks.ValidationError](err)
			if !ok {
				t.Fatalf("error is %v, want a *webhooks.ValidationError", err)
			}
			var got []string
			for _, f := range e.Fields {
				got = append(got, f.Pointer)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("pointers (-want +got):\n%s", diff)
			}
		})
	}
}
