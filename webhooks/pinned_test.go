package webhooks

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

// A record that is larger than the client or the broker takes was answered with
// 503, try again, for ever.
func TestAWebhookHasNoMoreTopicsThanFitIntoItsRecord(t *testing.T) {
	const mostOfAClient = 1_000_000
	for _, name := range []string{"t", strings.Repeat("t", 243)} {
		pinned := map[string]Pinned{}
		add := func(n int) {
			for range n {
				pinned[fmt.Sprintf("%s%06d", name, len(pinned))] = Pinned{TopicID: strings.Repeat("f", 32), Partitions: 1000}
			}
		}
		for add(500); CheckPinned(pinned) == nil; add(500) {
		}
		err := CheckPinned(pinned)
		if got := pointers(t, err); len(got) != 1 || got[0] != "/topics" {
			t.Errorf("%d topics: %v, want a complaint about /topics", len(pinned), err)
		}
		w := hook("a")
		w.Description = strings.Repeat("\"", maxDescription)
		for i := range maxLabels {
			w.Labels[fmt.Sprint("label-", i)] = strings.Repeat("<", maxLabelValue)
		}
		w.Request.Headers = map[string]string{"x-a": strings.Repeat("<", maxHeaderBytes-10)}
		ca := testCA(t)
		ca = strings.Repeat("<", (maxCA-len(ca)-100)/len(`\u003c`)) + "\n" + ca
		w.TLS.CA = &ca
		if err := w.Validate(); err != nil {
			t.Errorf("Validate: %v", err)
		}
		value, err := encode(Entry{Webhook: w, Secret: NewSecret(), Pinned: pinned}, ring(t, testKey(1)))
		if err != nil || len(value) > mostOfAClient {
			t.Errorf("a webhook with %d topics, five hundred too many at most, takes %d bytes (%v), and %d is the most", len(pinned), len(value), err, mostOfAClient)
		}
		r := start(t, newMemory().open(), nil)
		var invalid *ValidationError
		if _, err := r.Create(t.Context(), hook("a"), pinned); !errors.As(err, &invalid) {
			t.Errorf("Create: %v, want a *ValidationError", err)
		}
		if len(pinned) < 2000 {
			t.Errorf("only %d topics of %d bytes are taken", len(pinned), len(name)+6)
		}
	}
}
