package receiver_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kpush/kpush/groupmanager"
	"github.com/kpush/kpush/internal/records"
	"github.com/kpush/kpush/receiver"
	"github.com/kpush/kpush/server"
	"github.com/kpush/kpush/webhooks"
	"github.com/kpush/kpush/webhooks/delivery"
	"github.com/kpush/kpush/webhooks/egress"
)

// These tests hold the kit against the gateway's own code: what that sends is read
// here, what is answered here is understood there.

var key = []byte("0123456789abcdef0123456789abcdef")

func secrets(t testing.TB) receiver.Secrets {
	t.Helper()
	s, err := receiver.ParseSecrets(webhooks.FormatSecret(key))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// config is that of a webhook whose receiver is h.
func config(t testing.TB, h *receiver.Handler, edits ...func(*webhooks.Webhook)) delivery.Config {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	w := webhooks.Default()
	w.ID, w.URL, w.GroupID, w.Topics = "orders-to-billing", s.URL, "kpush.default.orders-to-billing", []string{"orders"}
	for _, edit := range edits {
		edit(&w)
	}
	return delivery.Config{Webhook: w, Signer: delivery.NewSigner(webhooks.Entry{Webhook: w, Secret: key}), AckURL: "https://gw.example.com/ack", UserAgent: "kpush/test", Guard: loopback(t)}
}

// loopback lets a gateway deliver to receivers on this machine.
func loopback(t testing.TB) *egress.Guard {
	t.Helper()
	ports, err := egress.ParsePorts([]string{egress.AnyPort})
	if err != nil {
		t.Fatal(err)
	}
	policy := egress.Policy{AllowHTTP: true, AllowedPorts: ports, AllowedCIDRs: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}
	return egress.New(policy, egress.Options{})
}

// send delivers a batch to h once.
func send(t testing.TB, h *receiver.Handler, b *records.Batch, edits ...func(*webhooks.Webhook)) delivery.Result {
	t.Helper()
	c, err := delivery.NewClient(config(t, h, edits...))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	m := c.Encode("dl_3kq9", "orders", 3, b, 0, b.Len())
	defer m.Free()
	return c.Send(t.Context(), m, delivery.Attempt{Number: 2, Generation: 42, Token: "kat_1", Now: time.Now()})
}

// oddValues are what keys and values can be, and what they are mistaken for.
var oddValues = [][]byte{
	nil, {}, []byte("null"), []byte(" null "), []byte("true"), []byte("0"), []byte(`""`), []byte(`"text"`), []byte("text"), []byte(`{"a": [1, {"b":null}]}`),
	[]byte(`{"a":1,"a":2}`), []byte(`{"value":null,"offset":9}`), []byte("1e400"), []byte("12345678901234567890"), []byte(`"\ud800"`), []byte(`"\u0000"`),
	[]byte("\x00"), []byte("\xff\xfe"), []byte("{\"a\":\"\xff\"}"), []byte("{"), []byte("ünï ✓ 🙂"), []byte(`<a href="x">&</a>`), []byte("a\"b\\c\r\n\t\u2028\ufeff"),
	[]byte(" \t\r\n"), []byte(strings.Repeat("x", 70_000)), []byte(strings.Repeat("[", 500) + strings.Repeat("]", 500)),
}

// sameBytes compares as a whole, and tells null from empty.
var sameBytes = cmp.Comparer(func(a, b []byte) bool { return (a == nil) == (b == nil) && bytes.Equal(a, b) })

// oddBatch has every combination of a key, a value and headers of those.
func oddBatch() *records.Batch {
	b := new(records.Batch)
	for i, value := range oddValues {
		key := oddValues[(i+3)%len(oddValues)]
		b.Append(records.Record{Offset: int64(1200 + 2*i), Timestamp: int64(1790000000000 + i), TimestampType: records.TimestampType(i % 3)}, key, value)
		for j := range i % 4 {
			b.AppendHeader(oddValues[(i+j+1)%len(oddValues)], oddValues[(i+2*j)%len(oddValues)])
		}
	}
	b.Append(records.Record{Offset: 5000, Timestamp: -1, TimestampType: records.TimestampNone}, nil, nil)
	return b
}

// TestWhatTheGatewaySendsIsWhatIsInKafka: in each format every byte comes through, and
// null is not taken for empty.
func TestWhatTheGatewaySendsIsWhatIsInKafka(t *testing.T) {
	for _, key := range []string{"auto", "base64"} {
		for _, value := range []string{"auto", "json", "string", "base64"} {
			t.Run(key+" and "+value, func(t *testing.T) {
				b := oddBatch()
				var got *receiver.Delivery
				h := &receiver.Handler{Secrets: secrets(t), StringValues: value == "string", Deliver: func(_ context.Context, d *receiver.Delivery) (receiver.Ack, error) {
					got = d
					return receiver.Ack{}, nil
				}}
				h.Report = func(_ *http.Request, status int, err error) { t.Errorf("answered %d: %v", status, err) }
				res := send(t, h, b, func(w *webhooks.Webhook) { w.Format.Key, w.Format.Value = key, value })
				if res.Verdict != delivery.Acked || got == nil {
					t.Fatalf("the gateway makes of it %+v", res)
				}
				if time.Since(got.Timestamp) > time.Minute || got.Timestamp.IsZero() {
					t.Errorf("it was sent at %v", got.Timestamp)
				}
				want := &receiver.Delivery{
					ID: "dl_3kq9", WebhookID: "orders-to-billing", GroupID: "kpush.default.orders-to-billing", Attempt: 2, Timestamp: got.Timestamp,
					Generation: 42, Topic: "orders", Partition: 3, FirstOffset: b.First(), LastOffset: b.Last(), RecordCount: b.Len(),
					Ticket: receiver.Ticket{Token: "kat_1", URL: "https://gw.example.com/ack", TimeoutMs: 30_000},
				}
				for i, r := range b.Records {
					w := receiver.Record{Offset: r.Offset, Key: b.Key(i), Value: b.Value(i)}
					w.TimestampType = []receiver.TimestampType{receiver.TimestampNone, receiver.TimestampCreate, receiver.TimestampLogAppend}[r.TimestampType]
					if r.Timestamp >= 0 {
						w.Timestamp = time.UnixMilli(r.Timestamp).UTC()
					}
					for j := range b.Headers(i) {
						name, value := b.Header(i, j)
						w.Headers = append(w.Headers, receiver.Header{Name: string(name), Value: value})
					}
					want.Records = append(want.Records, w)
				}
				if diff := cmp.Diff(want, got, sameBytes); diff != "" {
					t.Errorf("-want +got:\n%.5000s", diff)
				}
			})
		}
	}
}

// TestWhatIsAnsweredIsUnderstood: the gateway's reading of each Ack.
func TestWhatIsAnsweredIsUnderstood(t *testing.T) {
	tests := map[string]struct {
		ack  receiver.Ack
		err  error
		want delivery.Result
	}{
		"all went well": {receiver.Ack{}, nil, delivery.Result{Verdict: delivery.Acked, Status: 200}},
		"all":           {receiver.AckAll(), nil, delivery.Result{Verdict: delivery.Stated, Status: 200, Ack: &delivery.Ack{Outcome: "ack"}}},
		"the head":      {receiver.AckUpTo(1202), nil, delivery.Result{Verdict: delivery.Stated, Status: 200, Ack: &delivery.Ack{Outcome: "ack", UpToOffset: new(int64(1202))}}},
		"nack":          {receiver.Nack(5*time.Second, "db down"), nil, delivery.Result{Verdict: delivery.Stated, Status: 200, Ack: &delivery.Ack{Outcome: "nack", Delay: 5 * time.Second, Reason: "db down"}}},
		"extend":        {receiver.Extend(time.Minute), nil, delivery.Result{Verdict: delivery.Stated, Status: 200, Ack: &delivery.Ack{Outcome: "extend", Extend: time.Minute}}},
		"later":         {receiver.Later(), nil, delivery.Result{Verdict: delivery.Received, Status: 202}},
		"reject":        {receiver.Reject("bad schema"), nil, delivery.Result{Verdict: delivery.Stated, Status: 200, Ack: &delivery.Ack{Outcome: "reject", Reason: "bad schema"}}},
		"partial": {
			receiver.Partial(receiver.Failure{Offset: 1202, Action: receiver.ActionDeadLetter, Reason: "x"}), nil,
			delivery.Result{Verdict: delivery.Stated, Status: 200, Ack: &delivery.Ack{Outcome: "partial", Failures: []delivery.AckFailure{{Offset: 1202, Action: "dead_letter", Reason: "x"}}}},
		},
		"partial, which is all": {
			receiver.Partial(), nil, delivery.Result{Verdict: delivery.Stated, Status: 200, Ack: &delivery.Ack{Outcome: "ack"}},
		},
		"an error": {receiver.Ack{}, errors.New("no"), delivery.Result{Verdict: delivery.Failed, Status: 500, Code: "http_500"}},
	}
	for name, tt := range tests {
		h := &receiver.Handler{Secrets: secrets(t), Deliver: func(context.Context, *receiver.Delivery) (receiver.Ack, error) { return tt.ack, tt.err }}
		h.Report = func(*http.Request, int, error) {}
		got := send(t, h, oddBatch())
		got.At, got.Took = time.Time{}, 0
		if got.Code != "" {
			got.Code = tt.want.Code // a word of the gateway's own list
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s: -want +got:\n%s", name, diff)
		}
	}
}

func TestRefusalsAreUnderstood(t *testing.T) {
	deliver := func(context.Context, *receiver.Delivery) (receiver.Ack, error) { return receiver.Ack{}, nil }
	quiet := func(*http.Request, int, error) {}
	if res := send(t, &receiver.Handler{Secrets: secrets(t), MaxBody: 100_000, Report: quiet, Deliver: deliver}, oddBatch()); res.Verdict != delivery.TooLarge {
		t.Errorf("a body that is too long: %+v, want the batch to be cut", res)
	}
	for name, edit := range map[string]func(*webhooks.Webhook){
		"unsigned":    func(w *webhooks.Webhook) { w.Signing.Enabled = false },
		"as a string": func(w *webhooks.Webhook) { w.ID = "another" },
	} {
		h := &receiver.Handler{Report: quiet, Deliver: deliver, SecretsFor: func(_ context.Context, webhook string) (receiver.Secrets, error) {
			if webhook == "another" {
				return receiver.Secrets{}, nil
			}
			return secrets(t), nil
		}}
		if res := send(t, h, oddBatch(), edit); res.Verdict != delivery.Failed || res.Status != 401 {
			t.Errorf("%s: %+v, want a 401", name, res)
		}
	}
	if res := send(t, &receiver.Handler{Secrets: receiver.Unsigned(), Deliver: deliver}, oddBatch(), func(w *webhooks.Webhook) { w.Signing.Enabled = false }); res.Verdict != delivery.Acked {
		t.Errorf("unsigned, where signing is off: %+v", res)
	}
}

func TestTheGatewaysLifecycleCalls(t *testing.T) {
	var got []*receiver.Notice
	h := &receiver.Handler{Secrets: secrets(t), Notify: func(_ context.Context, n *receiver.Notice) error {
		got = append(got, n)
		return nil
	}}
	cfg := config(t, h)
	cfg.Webhook.Lifecycle = &webhooks.Lifecycle{URL: cfg.Webhook.URL}
	n, err := delivery.NewNotifier(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	now := time.Now()
	kinds := []string{delivery.PartitionsAssigned, delivery.PartitionsRevoked, delivery.PartitionsLost}
	var want []*receiver.Notice
	for i, kind := range kinds {
		notice := delivery.Notice{Type: kind, Generation: 42, Partitions: []delivery.Partition{{Topic: "orders", Partition: 3}, {Topic: `a"b`}}, Now: now}
		if res := n.Notify(t.Context(), fmt.Sprint("lc_", i), notice); res.Verdict != delivery.Acked {
			t.Errorf("%s: %+v", kind, res)
		}
		want = append(want, &receiver.Notice{
			ID: fmt.Sprint("lc_", i), Type: receiver.NoticeType(kind), Timestamp: now.UTC().Truncate(time.Millisecond),
			WebhookID: "orders-to-billing", GroupID: "kpush.default.orders-to-billing", Generation: 42,
			Partitions: []receiver.Partition{{Topic: "orders", Partition: 3}, {Topic: `a"b`}},
		})
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// owner is a gateway behind the server's own API; only acks come to it.
type owner struct {
	server.Gateway
	asked  []groupmanager.AckRequest
	answer groupmanager.AckAnswer
	err    error
}

func (o *owner) Ack(_ context.Context, a groupmanager.AckRequest) (groupmanager.AckAnswer, error) {
	o.asked = append(o.asked, a)
	return o.answer, o.err
}

// TestAckerAndServer: acks as the server of the gateway takes them, and its answers.
func TestAckerAndServer(t *testing.T) {
	deadline := time.Date(2026, 9, 22, 10, 1, 0, 0, time.UTC)
	o := &owner{}
	api, err := server.New(server.Config{Gateway: o, AdminToken: "correct horse battery staple"})
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(api)
	defer s.Close()
	tests := map[string]struct {
		ack    receiver.Ack
		asked  groupmanager.AckRequest
		answer groupmanager.AckAnswer
		err    error
		want   receiver.Receipt
		is     error
	}{
		"committed": {
			receiver.Ack{}, groupmanager.AckRequest{Outcome: "ack"},
			groupmanager.AckAnswer{Result: "committed", Generation: 42, CommittedOffset: new(int64(1250))}, nil,
			receiver.Receipt{Result: receiver.Committed, Generation: new(int32(42)), CommittedOffset: new(int64(1250))}, nil,
		},
		"the head": {
			receiver.AckUpTo(1210), groupmanager.AckRequest{Outcome: "ack", UpToOffset: new(int64(1210))},
			groupmanager.AckAnswer{Result: "pending_gap", Generation: 42, BlockedBy: new(int64(1203))}, nil,
			receiver.Receipt{Result: receiver.PendingGap, Generation: new(int32(42)), BlockedByOffset: new(int64(1203))}, nil,
		},
		"nack": {
			receiver.Nack(5*time.Second, "db down"), groupmanager.AckRequest{Outcome: "nack", Delay: 5 * time.Second, Reason: "db down"},
			groupmanager.AckAnswer{Result: "scheduled"}, nil, receiver.Receipt{Result: receiver.Scheduled}, nil,
		},
		"extend": {
			receiver.Extend(time.Minute), groupmanager.AckRequest{Outcome: "extend", Extend: time.Minute},
			groupmanager.AckAnswer{Result: "extended", Deadline: &deadline}, nil, receiver.Receipt{Result: receiver.Extended, Deadline: &deadline}, nil,
		},
		"accepted": {
			receiver.AckAll(), groupmanager.AckRequest{Outcome: "ack", WaitAccept: true},
			groupmanager.AckAnswer{Result: "accepted"}, nil, receiver.Receipt{Result: receiver.Accepted, Generation: new(int32(0))}, nil,
		},
		"stale":         {receiver.AckAll(), groupmanager.AckRequest{Outcome: "ack"}, groupmanager.AckAnswer{}, &groupmanager.StaleError{Current: 43}, receiver.Receipt{}, receiver.ErrGenerationStale},
		"conflict":      {receiver.AckAll(), groupmanager.AckRequest{Outcome: "ack"}, groupmanager.AckAnswer{}, groupmanager.ErrOutcomeConflict, receiver.Receipt{}, receiver.ErrOutcomeConflict},
		"token invalid": {receiver.AckAll(), groupmanager.AckRequest{Outcome: "ack"}, groupmanager.AckAnswer{}, groupmanager.ErrTokenInvalid, receiver.Receipt{}, receiver.ErrTokenInvalid},
		"out of range":  {receiver.AckUpTo(7), groupmanager.AckRequest{Outcome: "ack", UpToOffset: new(int64(7))}, groupmanager.AckAnswer{}, groupmanager.ErrOffsetOutOfRange, receiver.Receipt{}, receiver.ErrOffsetOutOfRange},
		"no webhook":    {receiver.AckAll(), groupmanager.AckRequest{Outcome: "ack"}, groupmanager.AckAnswer{}, groupmanager.ErrWebhookNotFound, receiver.Receipt{}, receiver.ErrNotFound},
		"no partition":  {receiver.AckAll(), groupmanager.AckRequest{Outcome: "ack"}, groupmanager.AckAnswer{}, groupmanager.ErrPartitionNotFound, receiver.Receipt{}, receiver.ErrNotFound},
		"no owner":      {receiver.AckAll(), groupmanager.AckRequest{Outcome: "ack"}, groupmanager.AckAnswer{}, groupmanager.ErrNoOwner, receiver.Receipt{}, receiver.ErrNoOwner},
		"Kafka is away": {receiver.AckAll(), groupmanager.AckRequest{Outcome: "ack"}, groupmanager.AckAnswer{}, webhooks.ErrUnavailable, receiver.Receipt{}, receiver.ErrUnavailable},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			*o = owner{answer: tt.answer, err: tt.err}
			wait := receiver.WaitCommit
			if tt.asked.WaitAccept {
				wait = receiver.WaitAccept
			}
			a, err := receiver.NewAcker(receiver.AckerConfig{Gateway: s.URL, Client: s.Client(), Wait: wait})
			if err != nil {
				t.Fatal(err)
			}
			ticket := receiver.Ticket{Token: "kat_1", URL: s.URL + "/ack"}
			tt.asked.Token = "kat_1"

			got, err := a.Send(t.Context(), ticket, tt.ack)
			all := a.SendAll(t.Context(), []receiver.Statement{{Ticket: ticket, Ack: tt.ack}})
			for _, answer := range []receiver.Answer{{Receipt: got, Err: err}, all[0]} {
				if diff := cmp.Diff(tt.want, answer.Receipt); diff != "" || !errors.Is(answer.Err, tt.is) {
					t.Errorf("error %v, want %v (-want +got):\n%s", answer.Err, tt.is, diff)
				}
				refused, ok := errors.AsType[*receiver.Refusal](answer.Err)
				if tt.is == receiver.ErrGenerationStale && (!ok || *refused.CurrentGeneration != 43) {
					t.Errorf("%v does not tell the generation 43", answer.Err)
				}
			}
			if refused, ok := errors.AsType[*receiver.Refusal](err); tt.is == receiver.ErrNoOwner && (!ok || refused.RetryAfter != time.Second) {
				t.Errorf("%v does not tell when to come again", err)
			}
			if diff := cmp.Diff([]groupmanager.AckRequest{tt.asked, tt.asked}, o.asked); diff != "" {
				t.Errorf("what the gateway was asked (-want +got):\n%s", diff)
			}
		})
	}
}

// TestMoreThanAThousandAcks: the server's limit is the kit's.
func TestMoreThanAThousandAcks(t *testing.T) {
	o := &counting{}
	api, err := server.New(server.Config{Gateway: o, InsecureNoAuth: true})
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(api)
	defer s.Close()
	a, err := receiver.NewAcker(receiver.AckerConfig{Gateway: s.URL, Client: s.Client()})
	if err != nil {
		t.Fatal(err)
	}
	statements := make([]receiver.Statement, 1200)
	for i := range statements {
		statements[i] = receiver.Statement{Ticket: receiver.Ticket{Token: fmt.Sprint("kat_", i, strings.Repeat("x", 1000))}, Ack: receiver.AckAll()}
	}
	for i, answer := range a.SendAll(t.Context(), statements) {
		if answer.Err != nil || *answer.Receipt.CommittedOffset != int64(i) {
			t.Fatalf("answer %d is %+v", i, answer)
		}
	}
}

// counting answers with the number in the token.
type counting struct{ server.Gateway }

func (counting) Ack(_ context.Context, a groupmanager.AckRequest) (groupmanager.AckAnswer, error) {
	var n int64
	if _, err := fmt.Sscanf(a.Token, "kat_%d", &n); err != nil {
		return groupmanager.AckAnswer{}, err
	}
	return groupmanager.AckAnswer{Result: "committed", CommittedOffset: &n}, nil
}
