package receiver_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/kpush/kpush/receiver"
	"github.com/kpush/kpush/webhooks"
	"github.com/kpush/kpush/webhooks/delivery"
)

// TestG5_G9: what the gateway signs during a rotation, by both schemes, verifies by the
// kit with the old keys, with the new ones, and with both; afterwards by the new ones alone.
func TestG5_G9_TheKitVerifiesARotation(t *testing.T) {
	now := time.Now()
	entry := func(letter string) webhooks.Entry {
		e := webhooks.Entry{Webhook: webhooks.Default(), Secret: bytes.Repeat([]byte(letter), 32)}
		e.Private = ed25519.NewKeyFromSeed(e.Secret)
		e.Webhook.Signing.Schemes = []string{webhooks.SchemeV1, webhooks.SchemeV1a}
		return e
	}
	before, after := entry("a"), entry("b")
	oldSecret, newSecret := webhooks.FormatSecret(before.Secret), webhooks.FormatSecret(after.Secret)
	oldKey, newKey := before.PublicKeys(now)[0].String(), after.PublicKeys(now)[0].String()
	after.Former = []webhooks.FormerKey{{Secret: before.Secret, Private: before.Private, Until: now.Add(time.Minute)}}

	for _, test := range []struct {
		claim                  string
		secrets                []string
		before, during, closed bool // verifies
	}{
		{"the old secret", []string{oldSecret}, true, true, false},
		{"the new secret", []string{newSecret}, false, true, true},
		{"both secrets", []string{oldSecret, newSecret}, true, true, true},
		{"the old public key", []string{oldKey}, true, true, false},
		{"the new public key", []string{newKey}, false, true, true},
		{"both public keys", []string{oldKey, newKey}, true, true, true},
		{"the old secret and the new public key", []string{oldSecret, newKey}, true, true, true},
	} {
		t.Run(test.claim, func(t *testing.T) {
			secrets, err := receiver.ParseSecrets(test.secrets...)
			if err != nil {
				t.Fatal(err)
			}
			s := httptest.NewServer(&receiver.Handler{
				Secrets: secrets,
				Deliver: func(context.Context, *receiver.Delivery) (receiver.Ack, error) { return receiver.Ack{}, nil },
			})
			defer s.Close()
			w := before.Webhook
			w.ID, w.URL, w.GroupID, w.Topics = "orders-to-billing", s.URL, "kpush.default.orders-to-billing", []string{"orders"}
			signer := delivery.NewSigner(before)
			c, err := delivery.NewClient(delivery.Config{Webhook: w, Signer: signer, AckURL: "https://gw.example.com/ack", UserAgent: "kpush/test", Guard: loopback(t)})
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			verifies := func(when string, at time.Time, want bool) {
				b := oddBatch()
				m := c.Encode("dl_3kq9", "orders", 3, b, 0, b.Len())
				defer m.Free()
				res := c.Send(t.Context(), m, delivery.Attempt{Number: 1, Generation: 42, Token: "kat_1", Now: at})
				if got := res.Verdict == delivery.Acked; got != want || !want && res.Status != 401 {
					t.Errorf("%s the kit answers %d %s, want it verified: %v", when, res.Status, res.Code, want)
				}
			}
			verifies("before", now, test.before)
			signer.Set(after)
			verifies("in the overlap", now, test.during)
			verifies("after it", now.Add(time.Minute), test.closed)
		})
	}
}
