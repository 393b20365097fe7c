package receiver_test

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"time"

	"github.com/kpush/kpush/receiver"
)

// A receiver that books orders, and stops at the first that does not go.
func ExampleHandler() {
	secrets, err := receiver.ParseSecrets("whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=")
	if err != nil {
		fmt.Println(err)
		return
	}
	h := &receiver.Handler{
		Secrets: secrets,
		Dedupe:  receiver.NewMemory(0),
		Deliver: func(ctx context.Context, d *receiver.Delivery) (receiver.Ack, error) {
			for i, r := range d.Records {
				var order struct{ Total int }
				if err := json.Unmarshal(r.Value, &order); err != nil && !r.Tombstone() {
					if i == 0 {
						return receiver.Nack(time.Minute, "not an order"), nil
					}
					return receiver.AckUpTo(d.Records[i-1].Offset), nil
				}
				fmt.Printf("%s/%d@%d: %s has %d\n", d.Topic, d.Partition, r.Offset, r.Key, order.Total)
			}
			return receiver.Ack{}, nil
		},
	}
	for range 2 {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, fromTheGateway(`{"type": "kafka.records", "delivery_id": "dl_1", "webhook_id": "orders", "attempt": 1,
			"generation": 42, "topic": "orders", "partition": 3, "first_offset": 7, "last_offset": 9, "record_count": 3,
			"ack": {"token": "kat_1", "url": "https://gw.example.com/ack", "timeout_ms": 30000}, "records": [
			{"offset": 7, "timestamp": 1790000000123, "timestamp_type": "create", "key": "o-17", "value": {"total": 3}, "headers": []},
			{"offset": 8, "timestamp": 1790000000124, "timestamp_type": "create", "key": "o-11", "value": null, "headers": []},
			{"offset": 9, "timestamp": 1790000000125, "timestamp_type": "create", "key": "o-18", "value": "x", "headers": []}]}`))
		fmt.Println(w.Code, w.Body)
	}
	// Output:
	// orders/3@7: o-17 has 3
	// orders/3@8: o-11 has 0
	// 200 {"ack":{"outcome":"ack","up_to_offset":8}}
	// 200 {"ack":{"outcome":"nack","delay_ms":60000,"reason":"not an order"}}
}

// A request is checked before anything else is done with it, over exactly the bytes
// that came.
func ExampleVerifier_Verify() {
	secrets, err := receiver.ParseSecrets("whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=")
	if err != nil {
		fmt.Println(err)
		return
	}
	r := fromTheGateway(`{"total": 3}`)
	body, _ := io.ReadAll(r.Body)

	v := receiver.Verifier{Secrets: secrets}
	fmt.Println(v.Verify(r.Header, body))
	fmt.Println(v.Verify(r.Header, []byte(`{"total": 4}`)))
	r.Header.Set("Webhook-Timestamp", "1790000000")
	fmt.Println(errors.Is(v.Verify(r.Header, body), receiver.ErrTooOld))
	// Output:
	// <nil>
	// no signature of the request is right
	// true
}

// What work is queued with is a ticket; when it is done, that is what is acked.
func ExampleAcker() {
	gateway := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("Content-Type", "application/json")
		if strings.Contains(string(body), "kat_old") {
			w.Header().Set("Content-Type", "application/problem+json")
			w.WriteHeader(http.StatusConflict)
			fmt.Fprint(w, `{"status": 409, "code": "generation_stale", "current_generation": 43}`)
			return
		}
		fmt.Fprint(w, `{"result": "committed", "committed_offset": 1250, "generation": 42}`)
	}))
	defer gateway.Close()

	acker, err := receiver.NewAcker(receiver.AckerConfig{Gateway: gateway.URL, Retries: 3})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer acker.CloseIdleConnections()

	receipt, err := acker.Ack(context.Background(), receiver.Ticket{Token: "kat_1", URL: gateway.URL + "/ack"})
	fmt.Println(receipt.Result, *receipt.CommittedOffset, err)

	_, err = acker.Ack(context.Background(), receiver.Ticket{Token: "kat_old"})
	fmt.Println(err, errors.Is(err, receiver.ErrGenerationStale))

	_, err = acker.Ack(context.Background(), receiver.Ticket{Token: "kat_1", URL: "https://evil.example.com/ack"})
	fmt.Println(errors.Is(err, receiver.ErrForeignOrigin))
	// Output:
	// committed 1250 <nil>
	// the ack was refused with 409 generation_stale (generation is now 43) true
	// true
}

// fromTheGateway is a request as the gateway makes and signs it.
func fromTheGateway(body string) *http.Request {
	r := httptest.NewRequest(http.MethodPost, "/hooks/orders", strings.NewReader(body))
	stamp := strconv.FormatInt(time.Now().Unix(), 10)
	mac := hmac.New(sha256.New, key)
	fmt.Fprintf(mac, "dl_1.%s.%s", stamp, body)
	r.Header.Set("Webhook-Id", "dl_1")
	r.Header.Set("Webhook-Timestamp", stamp)
	r.Header.Set("Webhook-Signature", "v1,"+base64.StdEncoding.EncodeToString(mac.Sum(nil)))
	return r
}
