package gatewaytest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
)

// Partition names one partition of one topic.
type Partition struct {
	Topic string
	ID    int32
}

func (p Partition) String() string { return fmt.Sprintf("%s/%d", p.Topic, p.ID) }

// Record is one record as a receiver saw it.
type Record struct {
	Offset    int64
	Timestamp int64 // milliseconds since the epoch
	Size      int   // of the value
	Digest    Digest
}

// Delivery is one request as a receiver saw it, and what became of it.
type Delivery struct {
	Webhook, Group string
	Partition      Partition
	ID             string
	Attempt        int
	Generation     int32
	Token          string
	AckURL         string
	Signed         bool // carried a signature; it was checked when the secret is known
	Header         http.Header
	Records        []Record
	Arrived        time.Time

	// Answered is when the answer was about to be written; zero while the
	// request is under way and when it was cut off before.
	Answered time.Time
	Status   int
}

// First is the offset of the first record.
func (d *Delivery) First() int64 { return d.Records[0].Offset }

// Last is the offset of the last record.
func (d *Delivery) Last() int64 { return d.Records[len(d.Records)-1].Offset }

// Answer is what a script makes of a delivery. The zero Answer is 200 without a body.
type Answer struct {
	Status  int // 0: 200
	Headers map[string]string
	Body    string
	Delay   time.Duration // before the answer
	Hang    bool          // never answer; the request ends when the gateway gives it up
	Ack     string        // an inline ack: the JSON object that stands under "ack"
}

// Script decides the answer to a delivery. It is called from many goroutines at
// once and may block; it must not change the delivery.
type Script func(d *Delivery) Answer

// OK acks everything.
func OK(*Delivery) Answer { return Answer{} }

// Ack is the statement of a receiver that records were done, whichever way it was made.
type Ack struct {
	Webhook     string
	Partition   Partition
	First, Last int64     // inclusive
	At          time.Time // when it was sent: no commit that rests on it can be older
}

// Receiver is a real HTTP server that takes deliveries for any number of
// webhooks, each under a path of its own, and keeps the ledger of them.
// All methods may be called concurrently.
type Receiver struct {
	server      *httptest.Server
	script      atomic.Pointer[Script]
	connections atomic.Int64

	mu         sync.Mutex
	explicit   map[string]bool
	secrets    map[string][]*standardwebhooks.Webhook
	deliveries []*Delivery
	acks       []Ack
	answers    []AckAnswer
	complaints []string
	seen       map[seenKey]map[int64]struct{}
	distinct   map[string]int // by webhook
}

type seenKey struct {
	webhook   string
	partition Partition
}

// NewReceiver starts a receiver on a port of its own; it ends with the test.
func NewReceiver(t testing.TB, script Script) *Receiver {
	t.Helper()
	r := &Receiver{
		explicit: map[string]bool{},
		secrets:  map[string][]*standardwebhooks.Webhook{},
		seen:     map[seenKey]map[int64]struct{}{},
		distinct: map[string]int{},
	}
	r.SetScript(script)
	r.server = httptest.NewUnstartedServer(http.HandlerFunc(r.serve))
	r.server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			r.connections.Add(1)
		}
	}
	r.server.Start()
	t.Cleanup(func() {
		r.server.CloseClientConnections()
		r.server.Close()
	})
	return r
}

// URL is where the webhook's deliveries go.
func (r *Receiver) URL(webhook string) string { return r.server.URL + "/" + webhook }

// SetScript changes how deliveries are answered from now on.
func (r *Receiver) SetScript(s Script) { r.script.Store(&s) }

// Verify has every delivery to the webhook checked against its secret ("whsec_..."),
// or, while that is rotated, against several, of which one has to verify.
func (r *Receiver) Verify(t testing.TB, webhook string, secrets ...string) {
	t.Helper()
	var whs []*standardwebhooks.Webhook
	for _, secret := range secrets {
		wh, err := standardwebhooks.NewWebhook(secret)
		if err != nil {
			t.Fatalf("reading the secret of %s: %v", webhook, err)
		}
		whs = append(whs, wh)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.secrets[webhook] = whs
}

// Explicit says that the webhook's ack mode is explicit: a plain 2xx acks nothing.
func (r *Receiver) Explicit(webhook string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.explicit[webhook] = true
}

// Connections is the number of connections ever accepted.
func (r *Receiver) Connections() int { return int(r.connections.Load()) }

// Deliveries are copies of all deliveries of a webhook so far, in order of arrival.
func (r *Receiver) Deliveries(webhook string) []Delivery {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []Delivery
	for _, d := range r.deliveries {
		if d.Webhook == webhook {
			out = append(out, *d)
		}
	}
	return out
}

// Acks are the acks made for a webhook so far.
func (r *Receiver) Acks(webhook string) []Ack {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []Ack
	for _, a := range r.acks {
		if a.Webhook == webhook {
			out = append(out, a)
		}
	}
	return out
}

// Answers are what POST /ack answered for a webhook so far.
func (r *Receiver) Answers(webhook string) []AckAnswer {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []AckAnswer
	for _, a := range r.answers {
		if a.Webhook == webhook {
			out = append(out, a)
		}
	}
	return out
}

// Distinct is the number of different records of a webhook that ever arrived.
func (r *Receiver) Distinct(webhook string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.distinct[webhook]
}

// Complaints are the deliveries that broke the contract by themselves: a body
// that does not decode, headers that differ from it, a bad signature, a
// delivery of one webhook at the address of another.
func (r *Receiver) Complaints() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.complaints)
}

// Acked notes an ack that was sent by POST /ack and not refused. at is when it was sent.
func (r *Receiver) Acked(a Ack) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.acks = append(r.acks, a)
}

// AckAnswered notes what POST /ack answered, whatever it was.
func (r *Receiver) AckAnswered(a AckAnswer) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.answers = append(r.answers, a)
}

func (r *Receiver) serve(w http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return // cut off while sending: nothing was delivered
	}
	d, err := r.read(req, body)
	if err != nil {
		r.complain("%s: %v", req.URL.Path, err)
		http.Error(w, "not a delivery", http.StatusBadRequest)
		return
	}
	r.note(d)
	a := (*r.script.Load())(d)
	if a.Hang {
		<-req.Context().Done()
		return
	}
	if a.Delay > 0 {
		select {
		case <-time.After(a.Delay):
		case <-req.Context().Done():
			return
		}
	}
	r.answer(w, d, a)
}

// read makes a Delivery of a request and checks that head and body agree.
func (r *Receiver) read(req *http.Request, body []byte) (*Delivery, error) {
	e, err := decodeEnvelope(body)
	if err != nil {
		return nil, err
	}
	d := &Delivery{
		Webhook: e.WebhookID, Group: e.GroupID, Partition: Partition{e.Topic, e.Partition}, ID: e.DeliveryID,
		Attempt: e.Attempt, Generation: e.Generation, Token: e.Ack.Token, AckURL: e.Ack.URL,
		Signed: req.Header.Get("Webhook-Signature") != "", Header: req.Header, Arrived: time.Now(),
		Records: make([]Record, len(e.Records)),
	}
	for i := range e.Records {
		if d.Records[i], err = e.Records[i].record(); err != nil {
			return nil, err
		}
	}
	if err := e.matches(req); err != nil {
		return nil, err
	}
	r.mu.Lock()
	secrets := r.secrets[d.Webhook]
	r.mu.Unlock()
	for i, secret := range secrets {
		err := secret.Verify(body, req.Header)
		if err == nil {
			break
		}
		if i == len(secrets)-1 {
			return nil, fmt.Errorf("checking the signature of %s: %w", d.ID, err)
		}
	}
	return d, nil
}

// matches compares the request's head with its body.
func (e *envelope) matches(req *http.Request) error {
	want := map[string]string{
		"Content-Type":         "application/json; charset=utf-8",
		"Webhook-Id":           e.DeliveryID,
		"Kpush-Webhook":        e.WebhookID,
		"Kpush-Group":          e.GroupID,
		"Kpush-Topic":          e.Topic,
		"Kpush-Partition":      strconv.Itoa(int(e.Partition)),
		"Kpush-Generation":     strconv.Itoa(int(e.Generation)),
		"Kpush-First-Offset":   strconv.FormatInt(e.FirstOffset, 10),
		"Kpush-Last-Offset":    strconv.FormatInt(e.LastOffset, 10),
		"Kpush-Record-Count":   strconv.Itoa(e.RecordCount),
		"Kpush-Attempt":        strconv.Itoa(e.Attempt),
		"Kpush-Ack-Token":      e.Ack.Token,
		"Kpush-Ack-Timeout-Ms": strconv.Itoa(e.Ack.TimeoutMs),
	}
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if got := req.Header.Get(name); got != want[name] {
			return fmt.Errorf("header %s is %q, the body says %q", strings.ToLower(name), got, want[name])
		}
	}
	if path := "/" + e.WebhookID; req.URL.Path != path {
		return fmt.Errorf("a delivery of webhook %s came to another's address", e.WebhookID)
	}
	return nil
}

// note enters an arrival in the ledger.
func (r *Receiver) note(d *Delivery) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.deliveries = append(r.deliveries, d)
	key := seenKey{d.Webhook, d.Partition}
	seen := r.seen[key]
	if seen == nil {
		seen = map[int64]struct{}{}
		r.seen[key] = seen
	}
	before := len(seen)
	for i := range d.Records {
		seen[d.Records[i].Offset] = struct{}{}
	}
	r.distinct[d.Webhook] += len(seen) - before
}

// answer enters what the answer says in the ledger, then writes it: an ack in
// the ledger is thus never younger than what the gateway made of it.
func (r *Receiver) answer(w http.ResponseWriter, d *Delivery, a Answer) {
	if a.Status == 0 {
		a.Status = http.StatusOK
	}
	for name, value := range a.Headers {
		w.Header().Set(name, value)
	}
	if a.Ack != "" {
		w.Header().Set("Content-Type", "application/json")
		a.Body = `{"ack":` + a.Ack + `}`
	}
	r.settle(d, a)
	w.WriteHeader(a.Status)
	io.WriteString(w, a.Body)
}

func (r *Receiver) settle(d *Delivery, a Answer) {
	r.mu.Lock()
	defer r.mu.Unlock()
	d.Answered, d.Status = time.Now(), a.Status
	if a.Status < 200 || a.Status > 299 {
		return
	}
	last := d.Last()
	if a.Ack == "" {
		if a.Status == http.StatusAccepted || r.explicit[d.Webhook] {
			return
		}
	} else {
		var inline struct {
			Outcome    string `json:"outcome"`
			UpToOffset *int64 `json:"up_to_offset"`
		}
		if json.NewDecoder(bytes.NewReader([]byte(a.Ack))).Decode(&inline) != nil || (inline.Outcome != "" && inline.Outcome != "ack") {
			return
		}
		if inline.UpToOffset != nil {
			last = *inline.UpToOffset
		}
	}
	// With ordering key a delivery leaves offsets out, which it does not ack.
	for first := 0; first < len(d.Records) && d.Records[first].Offset <= last; {
		end := first + 1
		for end < len(d.Records) && d.Records[end].Offset <= last && d.Records[end].Offset == d.Records[end-1].Offset+1 {
			end++
		}
		r.acks = append(r.acks, Ack{d.Webhook, d.Partition, d.Records[first].Offset, d.Records[end-1].Offset, d.Answered})
		first = end
	}
}

// maxComplaints bounds how many complaints are kept: the first ones tell the story.
const maxComplaints = 100

func (r *Receiver) complain(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.complaints) < maxComplaints {
		r.complaints = append(r.complaints, fmt.Sprintf(format, args...))
	}
}
