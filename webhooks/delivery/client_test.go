package delivery

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"github.com/kpush/kpush/internal/records"
	"github.com/kpush/kpush/webhooks"
)

func TestSmoke(t *testing.T) {
	var body []byte
	var head http.Header
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ = io.ReadAll(r.Body)
		head = r.Header
	}))
	defer srv.Close()
	w := webhooks.Default()
	w.ID, w.URL, w.GroupID = "orders", srv.URL, "kpush.default.orders"
	secret := []byte("0123456789abcdef0123456789abcdef")
	c, err := NewClient(Config{Webhook: w, Secret: secret, AckURL: "http://gw/ack", UserAgent: "kpush/test"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	b := records.Get()
	b.Append(records.Record{Offset: 7, Timestamp: 1790000000123, TimestampType: 1}, []byte("k"), []byte(`{"total":3}`))
	b.AppendHeader([]byte("trace"), []byte("a\xff"))
	b.Append(records.Record{Offset: 9, Timestamp: -1}, nil, nil)
	m := c.Encode("dl_x", "orders", 3, b, 0, 2)
	for i := range 3 {
		res := c.Send(t.Context(), m, Attempt{Number: i + 1, Generation: 42, Token: "tok", Now: time.Now()})
		t.Logf("%+v", res)
		var v any
		if err := json.Unmarshal(body, &v); err != nil {
			t.Error(err)
		}
		wh, _ := standardwebhooks.NewWebhookRaw(secret)
		if err := wh.Verify(body, head); err != nil {
			t.Error(err)
		}
	}
	t.Logf("%s\n%v", body, head)
	m.Free()
}
