package main

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kpush/kpush/acker"
	"github.com/kpush/kpush/internal/gatewaytest"
	"github.com/kpush/kpush/webhooks"
)

// The tests of this file are named by the lines of the checklist for outbound
// requests, chapter 8: what may be said of a delivery, by whom and when. Whole
// gateways run, between an embedded broker and a receiver. K1, K10 and K11 are in
// package server, too, and K12 is the receiver kit's.

const (
	ackTopic = "orders"
	ackHook  = "billing"
	ackBatch = 5
)

// ackScene is one webhook, and the gateways that deliver it.
type ackScene struct {
	broker   *gatewaytest.Broker
	kafka    *gatewaytest.Kafka
	receiver *gatewaytest.Receiver
	apis     []*gatewaytest.API // of the gateways, the first leads
	group    string
}

// newAckScene starts so many gateways and registers the webhook on a topic of so
// many partitions, with some fields. Nothing is produced yet.
func newAckScene(t *testing.T, gateways int, partitions int32, script gatewaytest.Script, fields map[string]any) *ackScene {
	t.Helper()
	s := &ackScene{broker: gatewaytest.NewBroker(t)}
	var running []*running
	for n := range gateways {
		r := start(t, append(serveSettings(s.broker.Addr()), fmt.Sprint("KPUSH_REPLICA_ID=replica-", n+1)), "serve")
		running = append(running, r)
		api, _ := r.awaitStarted(t)
		awaitStatus(t, api+"/readyz", http.StatusOK)
		if n == 0 {
			r.await(t, &r.stderr, "this replica leads")
		}
		s.apis = append(s.apis, gatewaytest.NewAPI(api, "admin"))
	}
	t.Cleanup(func() {
		for _, r := range running {
			r.end(t, patience)
		}
	})
	s.kafka = gatewaytest.DialKafka(t, s.broker.Addr())
	s.kafka.CreateTopic(t, ackTopic, partitions)
	s.receiver = gatewaytest.NewReceiver(t, script)
	s.group = s.register(t, ackHook, fields).GroupID
	return s
}

func (s *ackScene) register(t *testing.T, id string, fields map[string]any) gatewaytest.Webhook {
	t.Helper()
	spec := map[string]any{
		"url": s.receiver.URL(id), "topics": []string{ackTopic}, "start": "earliest",
		"batch": map[string]any{"max_records": ackBatch}, "ack": map[string]any{"timeout_ms": 60_000},
	}
	for name, value := range fields {
		spec[name] = value
	}
	return s.apis[0].Register(t, id, spec)
}

// acceptAll answers with 202: the ack will come.
func acceptAll(*gatewaytest.Delivery) gatewaytest.Answer {
	return gatewaytest.Answer{Status: http.StatusAccepted}
}

// produce adds n records to a partition, all at once.
func (s *ackScene) produce(t *testing.T, partition int32, n int) {
	t.Helper()
	var records []*kgo.Record
	for i := range n {
		records = append(records, &kgo.Record{Topic: ackTopic, Partition: partition, Value: fmt.Appendf(nil, `{"number":%d}`, i)})
	}
	s.kafka.Produce(t, &gatewaytest.Produced{}, records...)
}

// delivery waits for the first delivery of a webhook that is as wanted.
func (s *ackScene) delivery(t *testing.T, id string, wanted func(*gatewaytest.Delivery) bool) *gatewaytest.Delivery {
	t.Helper()
	var found *gatewaytest.Delivery
	gatewaytest.Await(t, patience, func() error {
		for _, d := range s.receiver.Deliveries(id) {
			if found == nil && !d.Answered.IsZero() && wanted(&d) {
				found = &d
			}
		}
		if found == nil {
			return fmt.Errorf("no such delivery to %s; complaints %v", id, s.receiver.Complaints())
		}
		return nil
	})
	return found
}

func beginningAt(offset int64, attempt int) func(*gatewaytest.Delivery) bool {
	return func(d *gatewaytest.Delivery) bool { return d.First() == offset && d.Attempt == attempt }
}

// committed is what the broker has of a partition for a group.
func (s *ackScene) committed(t *testing.T, group string, partition int32) int64 {
	t.Helper()
	return s.kafka.Committed(t, group)[gatewaytest.Partition{Topic: ackTopic, ID: partition}]
}

func (s *ackScene) wantCommitted(t *testing.T, partition int32, want int64) {
	t.Helper()
	if got := s.committed(t, s.group, partition); got != want {
		t.Errorf("committed of partition %d is %d, want %d", partition, got, want)
	}
}

// wantAck sends an ack to a gateway and compares status, and result or code.
func wantAck(t *testing.T, api *gatewaytest.API, body any, status int, word string) gatewaytest.AckReply {
	t.Helper()
	reply, err := api.Ack(t.Context(), body, "")
	if err != nil {
		t.Fatal(err)
	}
	if got := reply.Result + reply.Code; reply.Status != status || got != word {
		t.Errorf("ack %.200v: %d %s, want %d %s", body, reply.Status, got, status, word)
	}
	return reply
}

type object = map[string]any

func byToken(d *gatewaytest.Delivery) object { return object{"token": d.Token} }

func byFields(d *gatewaytest.Delivery) object {
	return object{"webhook_id": d.Webhook, "topic": d.Partition.Topic, "partition": d.Partition.ID, "generation": d.Generation, "offset": d.Last()}
}

func with(body object, name string, value any) object {
	changed := object{name: value}
	for n, v := range body {
		if n != name {
			changed[n] = v
		}
	}
	return changed
}

// minted is the token of a delivery as it would be with some fields changed, by the
// key of the installation of these tests.
func minted(t *testing.T, d *gatewaytest.Delivery, change func(*acker.Token)) string {
	t.Helper()
	keys, err := webhooks.NewKeys(testKey)
	if err != nil {
		t.Fatal(err)
	}
	tokens := acker.NewTokens(keys.Derive("ack-token")...)
	token, err := tokens.Parse(d.Token)
	if err != nil {
		t.Fatalf("the token of a delivery: %v", err)
	}
	change(&token)
	return string(tokens.Append(nil, &token))
}

func TestK1_ForgedTokens(t *testing.T) {
	s := newAckScene(t, 1, 1, acceptAll, nil)
	s.produce(t, 0, ackBatch)
	d := s.delivery(t, ackHook, beginningAt(0, 1))
	foreign := string(acker.NewTokens(make([]byte, 32)).Append(nil, &acker.Token{
		Tenant: "default", Webhook: ackHook, Topic: ackTopic, Generation: d.Generation, Last: d.Last(), Attempt: 1, Owner: "replica-1",
	}))
	middle := len(d.Token) / 2
	flipped := d.Token[:middle] + string(rune(d.Token[middle])^1) + d.Token[middle+1:]
	for _, token := range []string{flipped, d.Token[:len(d.Token)-1], d.Token + "A", foreign, "forged"} {
		wantAck(t, s.apis[0], object{"token": token}, 401, "token_invalid")
	}
	s.wantCommitted(t, 0, 0)
	wantAck(t, s.apis[0], byToken(d), 200, "committed")
	s.wantCommitted(t, 0, d.Last()+1)
}

// TestK2_AnotherTenantsToken is authentic, and about a webhook of that tenant, which
// whoever sends it to us must not learn of: 404, as for one that there is not. There
// is one tenant yet, so the token is made with the installation's own key.
func TestK2_AnotherTenantsToken(t *testing.T) {
	s := newAckScene(t, 1, 1, acceptAll, nil)
	s.produce(t, 0, ackBatch)
	d := s.delivery(t, ackHook, beginningAt(0, 1))
	wantAck(t, s.apis[0], object{"token": minted(t, d, func(k *acker.Token) { k.Tenant = "other" })}, 404, "webhook_not_found")
	wantAck(t, s.apis[0], object{"token": minted(t, d, func(k *acker.Token) { k.Webhook = "other" })}, 404, "webhook_not_found")
	s.wantCommitted(t, 0, 0)
	wantAck(t, s.apis[0], object{"token": minted(t, d, func(*acker.Token) {})}, 200, "committed") // it was for that alone
}

func TestK3_ATokenOfAnOlderGeneration(t *testing.T) {
	s := newAckScene(t, 1, 2, acceptAll, nil)
	for p := range int32(2) {
		s.produce(t, p, ackBatch)
	}
	old := map[int32]*gatewaytest.Delivery{}
	for p := range int32(2) {
		old[p] = s.delivery(t, ackHook, func(d *gatewaytest.Delivery) bool { return d.Partition.ID == p })
		reply := wantAck(t, s.apis[0], with(byFields(old[p]), "generation", old[p].Generation-1), 409, "generation_stale")
		if g := reply.CurrentGeneration; g == nil || *g < old[p].Generation {
			t.Errorf("current_generation is %v, want %d at least", g, old[p].Generation)
		}
		wantAck(t, s.apis[0], object{"token": minted(t, old[p], func(k *acker.Token) { k.Generation-- })}, 409, "generation_stale")
		wantAck(t, s.apis[0], object{"token": minted(t, old[p], func(k *acker.Token) { k.Tenure++ })}, 409, "generation_stale")
		s.wantCommitted(t, p, 0)
	}
	// A seek begins a new tenure: what was delivered before it is of an older one.
	s.apis[0].Must(t, http.StatusOK, http.MethodPut, "/v1/webhooks/"+ackHook+"/offsets", object{"to": "earliest"})
	again := s.delivery(t, ackHook, func(d *gatewaytest.Delivery) bool { return d.Partition.ID == 0 && d.Token != old[0].Token })
	wantAck(t, s.apis[0], byToken(old[0]), 409, "generation_stale")
	s.wantCommitted(t, 0, 0)
	wantAck(t, s.apis[0], byToken(again), 200, "committed")
	s.wantCommitted(t, 0, again.Last()+1)
}

// TestK4_TheSameAckAgainAndAgain, at once, and at two gateways: all succeed, and the
// offset moves once.
func TestK4_TheSameAckAgainAndAgain(t *testing.T) {
	s := newAckScene(t, 2, 1, acceptAll, nil)
	s.produce(t, 0, ackBatch)
	d := s.delivery(t, ackHook, beginningAt(0, 1))
	var (
		acking  sync.WaitGroup
		mu      sync.Mutex
		results = map[string]int{}
	)
	const copies = 20
	for n := range copies {
		acking.Go(func() {
			reply, err := s.apis[n%2].Ack(t.Context(), byToken(d), "")
			mu.Lock()
			defer mu.Unlock()
			results[fmt.Sprint(reply.Status, " ", reply.Result, reply.Code, err)]++
		})
	}
	acking.Wait()
	if first, rest := results["200 committed<nil>"], results["200 already_committed<nil>"]; first < 1 || first+rest != copies {
		t.Errorf("answers %v, want all 200, the first committed", results)
	}
	for _, api := range s.apis {
		wantAck(t, api, byToken(d), 200, "already_committed")
	}
	s.wantCommitted(t, 0, d.Last()+1)
	moves := 0
	for _, c := range s.broker.CommitRequests(s.group) {
		for p, before := range c.Committed {
			if to := c.Offsets[p]; c.Accepted() && to != before {
				moves++
			}
		}
	}
	if moves > 2 { // the first pinned the beginning
		t.Errorf("%d commits moved the offset, want one", moves)
	}
}

func TestK5_TheFirstOutcomeStands(t *testing.T) {
	s := newAckScene(t, 1, 1, acceptAll, nil)
	s.produce(t, 0, 2*ackBatch)
	d := s.delivery(t, ackHook, beginningAt(0, 1))
	nack := func(d *gatewaytest.Delivery) object {
		return with(with(byToken(d), "outcome", "nack"), "delay_ms", 60_000)
	}
	wantAck(t, s.apis[0], byToken(d), 200, "committed")
	wantAck(t, s.apis[0], nack(d), 409, "outcome_conflict")
	next := s.delivery(t, ackHook, beginningAt(d.Last()+1, 1))
	wantAck(t, s.apis[0], nack(next), 200, "scheduled")
	wantAck(t, s.apis[0], byToken(next), 409, "outcome_conflict")
	wantAck(t, s.apis[0], nack(next), 200, "scheduled")
	s.wantCommitted(t, 0, d.Last()+1)
}

func TestK6_UpToOffsetOutsideOfTheBatch(t *testing.T) {
	s := newAckScene(t, 1, 1, acceptAll, nil)
	s.produce(t, 0, 2*ackBatch)
	first := s.delivery(t, ackHook, beginningAt(0, 1))
	wantAck(t, s.apis[0], byToken(first), 200, "committed")
	d := s.delivery(t, ackHook, beginningAt(ackBatch, 1))
	for _, upTo := range []int64{-1, d.First() - 1, d.Last() + 1, -1 << 63, 1<<63 - 1} {
		wantAck(t, s.apis[0], with(byToken(d), "up_to_offset", upTo), 422, "offset_out_of_range")
	}
	s.wantCommitted(t, 0, d.First())
	wantAck(t, s.apis[0], with(byToken(d), "up_to_offset", d.First()), 200, "committed")
	s.wantCommitted(t, 0, d.First()+1)
}

// TestK7_AnAckBeforeTheResponse counts, and counts for all: what the response then
// says is not heard.
func TestK7_AnAckBeforeTheResponse(t *testing.T) {
	var s *ackScene
	ready := make(chan struct{})
	replies := make(chan gatewaytest.AckReply, 100)
	s = newAckScene(t, 1, 1, func(d *gatewaytest.Delivery) gatewaytest.Answer {
		<-ready
		reply, err := s.apis[0].Ack(t.Context(), byToken(d), "")
		if err != nil {
			t.Error(err)
		}
		replies <- reply
		return gatewaytest.Answer{Status: http.StatusInternalServerError}
	}, nil)
	close(ready)
	s.produce(t, 0, 3*ackBatch)
	for range 3 {
		if r := <-replies; r.Status != 200 || r.Result != "committed" {
			t.Errorf("the ack was answered %d %s%s, want 200 committed", r.Status, r.Result, r.Code)
		}
	}
	s.wantCommitted(t, 0, 3*ackBatch)
	if n := len(s.receiver.Deliveries(ackHook)); n != 3 {
		t.Errorf("%d deliveries, want each of the three once", n)
	}
}

func TestK8_AnAckAfterItsDeadline(t *testing.T) {
	s := newAckScene(t, 1, 1, acceptAll, object{
		"ack": object{"timeout_ms": 1000}, "retry": object{"initial_backoff_ms": 1, "max_backoff_ms": 1},
	})
	s.produce(t, 0, 2*ackBatch)
	first := s.delivery(t, ackHook, beginningAt(0, 1))
	second := s.delivery(t, ackHook, beginningAt(0, 2))
	if first.ID != second.ID || first.Generation != second.Generation {
		t.Fatalf("%s of %d came again as %s of %d, want the same delivery in one generation", first.ID, first.Generation, second.ID, second.Generation)
	}
	s.wantCommitted(t, 0, 0)
	wantAck(t, s.apis[0], byToken(first), 200, "committed")
	wantAck(t, s.apis[0], byToken(second), 200, "already_committed")
	s.wantCommitted(t, 0, ackBatch)
	next := s.delivery(t, ackHook, beginningAt(ackBatch, 1))
	wantAck(t, s.apis[0], byToken(next), 200, "committed")
	for _, late := range []*gatewaytest.Delivery{first, second} {
		wantAck(t, s.apis[0], byToken(late), 200, "already_committed")
		wantAck(t, s.apis[0], byFields(late), 200, "already_committed")
	}
	s.wantCommitted(t, 0, 2*ackBatch) // never back
}

// TestK9_AnyGatewayTakesAnAck, and it is one answer: no redirect, whoever owns the partition.
func TestK9_AnyGatewayTakesAnAck(t *testing.T) {
	s := newAckScene(t, 2, 2, acceptAll, nil)
	var owners []string
	gatewaytest.Await(t, patience, func() error { // each gateway has one of the two
		owners = owners[:0]
		for _, row := range s.apis[0].Partitions(t, ackHook) {
			if row.Owner != nil {
				owners = append(owners, *row.Owner)
			}
		}
		if len(owners) != 2 || owners[0] == owners[1] {
			return fmt.Errorf("the owners are %v", owners)
		}
		return nil
	})
	for p := range int32(2) {
		s.produce(t, p, ackBatch)
		d := s.delivery(t, ackHook, func(d *gatewaytest.Delivery) bool { return d.Partition.ID == p })
		other := s.apis[0]
		if owners[p] == "replica-1" {
			other = s.apis[1]
		}
		body := byToken(d)
		if p == 1 {
			body = byFields(d)
		}
		wantAck(t, other, body, 200, "committed")
		s.wantCommitted(t, p, ackBatch)
	}
}

// TestA2_AcksOfStrangersAndForStrangers is the row of the table of faults: who may not
// say it, or speaks of what there is not, moves nothing; and who may for one webhook
// moves no other.
func TestA2_AcksOfStrangersAndForStrangers(t *testing.T) {
	s := newAckScene(t, 1, 1, acceptAll, nil)
	neighbour := s.register(t, "neighbour", nil)
	s.produce(t, 0, ackBatch)
	d, theirs := s.delivery(t, ackHook, beginningAt(0, 1)), s.delivery(t, "neighbour", beginningAt(0, 1))
	base := s.apis[0].Base
	for _, test := range []struct {
		bearer string
		body   any
		status int
		word   string
	}{
		{"admin", with(byFields(d), "webhook_id", "nobody"), 404, "webhook_not_found"},
		{"admin", with(byFields(d), "topic", "nothing"), 404, "partition_not_found"},
		{"admin", with(byFields(d), "partition", 7), 404, "partition_not_found"},
		{"", byFields(d), 401, "unauthorized"},
		{"wrong", byFields(d), 401, "unauthorized"},
		{"", object{"token": strings.ToUpper(d.Token)}, 401, "token_invalid"},
		{"", with(byFields(theirs), "token", d.Token), 422, "validation_failed"},
		{"", byToken(d), 200, "committed"},
	} {
		wantAck(t, gatewaytest.NewAPI(base, test.bearer), test.body, test.status, test.word)
	}
	s.wantCommitted(t, 0, ackBatch)
	if got := s.committed(t, neighbour.GroupID, 0); got != 0 {
		t.Errorf("the neighbour's offset is %d after the acks of another, want 0", got)
	}
}
