package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/kpush/kpush/internal/records"
	"github.com/kpush/kpush/webhooks"
	"github.com/kpush/kpush/webhooks/delivery"
	"github.com/kpush/kpush/webhooks/egress"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var key = []byte("0123456789abcdef0123456789abcdef")

// output is what the service prints, which the test reads meanwhile.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// await waits until the text has been printed that many times.
func (o *output) await(t *testing.T, text string, times int) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); strings.Count(o.String(), text) < times; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%q is not printed %d times:\n%s", text, times, o)
		}
	}
}

// gateway is the part of one that takes acks.
type gateway struct {
	mu   sync.Mutex
	acks []string
}

func (g *gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	g.mu.Lock()
	g.acks = append(g.acks, r.URL.Path+" "+string(body))
	g.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	fmt.Fprint(w, `{"result":"committed","committed_offset":1}`)
}

// running is the example as it runs.
type running struct {
	out    *output
	client *delivery.Client // of the gateway
	end    func()
}

func start(t *testing.T, g *gateway) running {
	t.Helper()
	api := httptest.NewServer(g)
	t.Cleanup(api.Close)
	env := map[string]string{"KPUSH_SECRET": webhooks.FormatSecret(key), "KPUSH_GATEWAY": api.URL, "LISTEN": "127.0.0.1:0"}
	r := running{out: new(output)}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- run(ctx, func(name string) string { return env[name] }, r.out) }()
	r.out.await(t, "\n", 1)
	w := webhooks.Default()
	w.ID, w.GroupID, w.Topics = "orders-to-billing", "kpush.default.orders-to-billing", []string{"orders"}
	w.URL = strings.Fields(r.out.String())[3] + "/hooks"
	ports, err := egress.ParsePorts([]string{egress.AnyPort})
	if err != nil {
		t.Fatal(err)
	}
	here := egress.Policy{AllowHTTP: true, AllowedPorts: ports, AllowedCIDRs: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}
	if r.client, err = delivery.NewClient(delivery.Config{
		Webhook: w, Signer: delivery.NewSigner(webhooks.Entry{Webhook: w, Secret: key}),
		AckURL: api.URL + "/ack", UserAgent: "kpush/test", Guard: egress.New(here, egress.Options{}),
	}); err != nil {
		t.Fatal(err)
	}
	r.end = sync.OnceFunc(func() {
		r.client.Close()
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("it ended with %v", err)
		}
	})
	t.Cleanup(r.end)
	return r
}

// send sends a delivery of n records as the gateway does. The record with number fail,
// if any, is one that the service fails at.
func (r running) send(t *testing.T, first int64, n, fail int) delivery.Result {
	t.Helper()
	b := new(records.Batch)
	for i := range n {
		b.Append(records.Record{Offset: first + int64(i), Timestamp: 1790000000000, TimestampType: records.TimestampCreate}, []byte("o-17"), []byte(`{"total":3}`))
		if i == fail {
			b.AppendHeader([]byte("fail"), []byte("the test"))
		}
	}
	m := r.client.Encode("dl_1", "orders", 3, b, 0, n)
	defer m.Free()
	return r.client.Send(t.Context(), m, delivery.Attempt{Number: 1, Generation: 42, Token: fmt.Sprint("kat_", first), Now: time.Now()})
}

func expect(t *testing.T, what string, got delivery.Result, verdict delivery.Verdict, ack *delivery.Ack) {
	t.Helper()
	gotAck, _ := json.Marshal(got.Ack)
	wantAck, _ := json.Marshal(ack)
	if got.Verdict != verdict || string(gotAck) != string(wantAck) {
		t.Errorf("%s: verdict %d, ack %s, want %d, %s (%+v)", what, got.Verdict, gotAck, verdict, wantAck, got)
	}
}

// TestExample runs the program against the gateway's own client.
func TestExample(t *testing.T) {
	g := new(gateway)
	r := start(t, g)
	all := &delivery.Ack{Outcome: "ack"}

	expect(t, "a small delivery", r.send(t, 100, 3, -1), delivery.Acked, nil)
	expect(t, "the same again", r.send(t, 100, 3, -1), delivery.Stated, all)
	expect(t, "the same and one more", r.send(t, 100, 4, -1), delivery.Acked, nil)
	expect(t, "one that fails at its first", r.send(t, 200, 3, 0), delivery.Failed, nil)
	expect(t, "one that fails at its third", r.send(t, 200, 3, 2), delivery.Stated, &delivery.Ack{Outcome: "ack", UpToOffset: new(int64(201))})
	expect(t, "its rest, healed", r.send(t, 202, 1, -1), delivery.Acked, nil)

	expect(t, "a large one", r.send(t, 300, 50, -1), delivery.Received, nil)
	r.out.await(t, "orders/3@300..349: committed", 1)
	expect(t, "the large one again", r.send(t, 300, 50, -1), delivery.Stated, all)
	expect(t, "a large one that fails", r.send(t, 400, 50, 20), delivery.Received, nil)
	r.out.await(t, "orders/3@400..449: committed", 1)
	expect(t, "a large one at the end", r.send(t, 500, 50, -1), delivery.Received, nil)
	r.end()

	want := []string{`/ack {"token":"kat_300","outcome":"ack"}`, `/ack {"token":"kat_400","outcome":"ack","up_to_offset":419}`, `/ack {"token":"kat_500","outcome":"ack"}`}
	if got := strings.Join(g.acks, "\n"); got != strings.Join(want, "\n") {
		t.Errorf("acks\n%s\nwant\n%s", got, strings.Join(want, "\n"))
	}
	lines := strings.Split(r.out.String(), "\n")
	processed := map[string]int{}
	for _, line := range lines {
		if place, _, ok := strings.Cut(line, `: "o-17" = "{\"total\":3}"`); ok {
			processed[place]++
		}
	}
	for place, times := range processed {
		if times != 1 {
			t.Errorf("%s was processed %d times", place, times)
		}
	}
	if want := 4 + 3 + 50 + 20 + 50; len(processed) != want {
		t.Errorf("%d records were processed, want %d:\n%s", len(processed), want, r.out)
	}
}

func TestExampleSaysWhatItLacks(t *testing.T) {
	for name, env := range map[string]map[string]string{
		"KPUSH_GATEWAY": {"KPUSH_SECRET": webhooks.FormatSecret(key)},
		"KPUSH_SECRET":  {"KPUSH_GATEWAY": "http://127.0.0.1:8080"},
	} {
		err := run(t.Context(), func(name string) string { return env[name] }, io.Discard)
		if err == nil || !strings.HasPrefix(err.Error(), name) {
			t.Errorf("without %s: %v", name, err)
		}
	}
}
