package webhooks

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestTopicPattern(t *testing.T) {
	for _, test := range []struct {
		topics  []string
		pattern string
		ok      bool
	}{
		{[]string{"^orders"}, "^orders", true},
		{[]string{"orders"}, "", false},
		{[]string{"a", "b"}, "", false},
		{nil, "", false},
	} {
		w := Webhook{Topics: test.topics}
		if pattern, ok := w.TopicPattern(); pattern != test.pattern || ok != test.ok {
			t.Errorf("%q: got %q, %v; want %q, %v", test.topics, pattern, ok, test.pattern, test.ok)
		}
	}
}

func TestChooses(t *testing.T) {
	for _, test := range []struct {
		topics []string
		topic  string
		want   bool
	}{
		{[]string{"orders", "bills"}, "bills", true},
		{[]string{"orders", "bills"}, "bill", false},
		{[]string{"__own"}, "__own", true},
		{[]string{"^orders"}, "orders.eu", true},
		{[]string{"^orders$"}, "orders.eu", false},
		{[]string{"^orders"}, "reorders", false},
		{[]string{"^a$|^b$"}, "b", true},
		{[]string{"^.*"}, "_a", true},
		{[]string{"^.*"}, "__consumer_offsets", false},
		{[]string{"^(a"}, "(a", false},
	} {
		w := Webhook{Topics: test.topics}
		if got := w.Chooses(test.topic); got != test.want {
			t.Errorf("%q chooses %q: %v, want %v", test.topics, test.topic, got, test.want)
		}
	}
}

func TestACloneSharesNothing(t *testing.T) {
	reason, dead := "gone", "dead"
	full := func() Webhook {
		w := valid()
		w.Labels, w.Request.Headers = map[string]string{"a": "b"}, map[string]string{"x": "y"}
		w.StateReason, w.DeadLetter.Topic, w.Lifecycle = new(reason), new(dead), &Lifecycle{URL: "http://l"}
		w.TLS = TLS{CA: new("ca"), ClientCertificate: new("cert"), ClientKey: new("key")}
		w.Auth = &Auth{Type: AuthOAuth2, Scopes: []string{"read"}}
		w.Signing.PublicKeys = []string{"whpk_a"}
		w.Format.Headers = []string{"trace"}
		w.Filter = new("true")
		return w
	}
	w := full()
	c := w.Clone()
	if diff := cmp.Diff(w, c); diff != "" {
		t.Errorf("the clone differs (-want +got):\n%s", diff)
	}
	c.Topics[0], c.Labels["a"], c.Request.Headers["x"] = "other", "other", "other"
	*c.StateReason, *c.DeadLetter.Topic, c.Lifecycle.URL = "other", "other", "other"
	*c.TLS.CA, *c.TLS.ClientCertificate, *c.TLS.ClientKey = "other", "other", "other"
	c.Auth.Type, c.Auth.Scopes[0] = "other", "other"
	c.Signing.Schemes[0], c.Signing.PublicKeys[0] = "other", "other"
	c.Format.Headers[0] = "other"
	*c.Filter = "other"
	if diff := cmp.Diff(full(), w); diff != "" {
		t.Errorf("a change of the clone shows (-want +got):\n%s", diff)
	}
}

func TestTheLifecycleIsContent(t *testing.T) {
	a, b := valid(), valid()
	b.Lifecycle = &Lifecycle{URL: "http://l"}
	if sameContent(a, b) || !sameContent(b, b.Clone()) {
		t.Error("webhooks are alike that differ in their lifecycle, or differ though alike")
	}
	for _, test := range []struct {
		w    Webhook
		want string
	}{{a, `"lifecycle":null`}, {b, `"lifecycle":{"url":"http://l"}`}} {
		text, err := json.Marshal(test.w)
		if err != nil || !strings.Contains(string(text), test.want) {
			t.Errorf("got %s, %v; want it to hold %s", text, err, test.want)
		}
	}
}
