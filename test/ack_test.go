package test

import (
	"fmt"
	"maps"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kpush/kpush/internal/gatewaytest"
)

// ackLater answers every delivery with 202.
func ackLater(*gatewaytest.Delivery) gatewaytest.Answer {
	return gatewaytest.Answer{Status: http.StatusAccepted}
}

// numbered are n small records for one partition.
func numbered(topic string, partition int32, n int) []*kgo.Record {
	var out []*kgo.Record
	for i := range n {
		out = append(out, &kgo.Record{Topic: topic, Partition: partition, Value: fmt.Appendf(nil, `{"number":%d}`, i)})
	}
	return out
}

// fieldsOf are the fields that ack a whole delivery, with changes.
func fieldsOf(d *gatewaytest.Delivery, changes object) object {
	body := object{
		"webhook_id": d.Webhook, "topic": d.Partition.Topic, "partition": d.Partition.ID,
		"generation": d.Generation, "offset": d.Last(),
	}
	maps.Copy(body, changes)
	return body
}

// TestAcksThatMoveNothing holds delivery 0..1 of partition 0 open while acks
// that must not count are tried, then acks it.
func TestAcksThatMoveNothing(t *testing.T) {
	s := newScene(t, 2, ackLater)
	s.kafka.Produce(t, s.produced, numbered(s.topic, 0, 5)...)
	s.register(t, object{"batch": object{"max_records": 2}})
	d := s.awaitDelivery(t, 0)

	foreign := newForeignToken(t, s)
	damaged := d.Token[:len(d.Token)/2] + flip(d.Token[len(d.Token)/2:])
	noBearer := gatewaytest.NewAPI(s.gateway.API.Base, "")
	wrongBearer := gatewaytest.NewAPI(s.gateway.API.Base, "not the token")
	for _, test := range []struct {
		name   string
		api    *gatewaytest.API
		body   any
		status int
		code   string
	}{
		{name: "a forged token", body: object{"token": "Zm9yZ2Vk"}, status: 401, code: "token_invalid"},
		{name: "a damaged token", body: object{"token": damaged}, status: 401, code: "token_invalid"},
		{name: "a token cut short", body: object{"token": d.Token[:len(d.Token)-2]}, status: 401, code: "token_invalid"},
		{name: "a token of another installation", body: object{"token": foreign}, status: 401, code: "token_invalid"},
		{name: "a stale generation", body: fieldsOf(d, object{"generation": d.Generation - 1}), status: 409, code: "generation_stale"},
		{name: "a future generation", body: fieldsOf(d, object{"generation": d.Generation + 1}), status: 409, code: "generation_stale"},
		{name: "a negative generation", body: fieldsOf(d, object{"generation": -1}), status: 422, code: "validation_failed"},
		{name: "an offset never delivered", body: fieldsOf(d, object{"offset": 4}), status: 422, code: "offset_out_of_range"},
		{name: "an offset that does not exist", body: fieldsOf(d, object{"offset": int64(1) << 40}), status: 422, code: "offset_out_of_range"},
		{name: "a negative offset", body: fieldsOf(d, object{"offset": -1}), status: 422, code: "offset_out_of_range"},
		{name: "a partition where nothing was delivered", body: fieldsOf(d, object{"partition": 1, "offset": 0}), status: 422, code: "offset_out_of_range"},
		{name: "up_to_offset beyond the delivery", body: object{"token": d.Token, "up_to_offset": 2}, status: 422, code: "offset_out_of_range"},
		{name: "a partition the topic does not have", body: fieldsOf(d, object{"partition": 99}), status: 404, code: "partition_not_found"},
		{name: "a topic of somebody else", body: fieldsOf(d, object{"topic": "other"}), status: 404, code: "partition_not_found"},
		{name: "a webhook that does not exist", body: fieldsOf(d, object{"webhook_id": "other"}), status: 404, code: "webhook_not_found"},
		{name: "no bearer", api: noBearer, body: fieldsOf(d, nil), status: 401, code: "unauthorized"},
		{name: "a wrong bearer", api: wrongBearer, body: fieldsOf(d, nil), status: 401, code: "unauthorized"},
		{name: "token and fields in one", body: fieldsOf(d, object{"token": d.Token}), status: 422, code: "validation_failed"},
		{name: "an unknown outcome", body: object{"token": d.Token, "outcome": "perhaps"}, status: 422, code: "validation_failed"},
		{name: "an unknown field", body: object{"token": d.Token, "offsets": 1}, status: 422, code: "validation_failed"},
		{name: "no object", body: `[]`, status: 400, code: "malformed"},
	} {
		t.Run(test.name, func(t *testing.T) {
			api := test.api
			if api == nil {
				api = s.gateway.API
			}
			reply, err := api.Ack(t.Context(), test.body, "")
			if err != nil {
				t.Fatal(err)
			}
			if reply.Status != test.status || reply.Code != test.code {
				t.Errorf("got %d %s, want %d %s", reply.Status, reply.Code, test.status, test.code)
			}
			if test.code == "generation_stale" && (reply.CurrentGeneration == nil || *reply.CurrentGeneration != d.Generation) {
				t.Errorf("current_generation is %v, want %d", reply.CurrentGeneration, d.Generation)
			}
		})
	}
	partition := gatewaytest.Partition{Topic: s.topic, ID: 0}
	if got := s.kafka.Committed(t, s.group)[partition]; got != 0 {
		t.Errorf("committed is %d after acks that do not count, want 0", got)
	}
	if got := len(s.receiver.Deliveries(s.id)); got != 1 {
		t.Errorf("%d deliveries, want still the one", got)
	}

	s.checkAck(t, d, 200, "committed", 2)
	if got := s.kafka.Committed(t, s.group)[partition]; got != 2 {
		t.Errorf("committed is %d after the answer, want 2", got)
	}
	s.checkAck(t, d, 200, "already_committed", 2)
	for n := 1; n < 3; n++ {
		next := s.awaitDelivery(t, n)
		s.checkAck(t, next, 200, "committed", next.Last()+1)
	}
	s.checkAck(t, d, 200, "already_committed", 5)
	s.finish(t, soon)
}

// checkAck acks a delivery by its token and compares the answer.
func (s *scene) checkAck(t *testing.T, d *gatewaytest.Delivery, status int, result string, committed int64) {
	t.Helper()
	reply, err := s.gateway.API.AckDelivery(t.Context(), s.receiver, d, d.Last(), "")
	if err != nil {
		t.Fatal(err)
	}
	if reply.Status != status || reply.Result != result {
		t.Errorf("ack of %d..%d: got %d %s%s, want %d %s", d.First(), d.Last(), reply.Status, reply.Result, reply.Code, status, result)
	}
	if reply.CommittedOffset == nil || *reply.CommittedOffset < committed {
		t.Errorf("ack of %d..%d: committed_offset is %v, want at least %d", d.First(), d.Last(), reply.CommittedOffset, committed)
	}
}

// flip changes the first letter of a text.
func flip(s string) string {
	if s[0] == 'A' {
		return "B" + s[1:]
	}
	return "A" + s[1:]
}

// newForeignToken is a token that another installation minted for a delivery of
// the same webhook, topic and offsets.
func newForeignToken(t *testing.T, s *scene) string {
	t.Helper()
	config := gatewaytest.NewConfig(t, s.config.Brokers)
	config.Env = []string{
		"KPUSH_REGISTRY_TOPIC=foreign-" + s.topic,
		"KPUSH_SECRET_KEY=Zm9yZWlnbmZvcmVpZ25mb3JlaWduZm9yZWlnbmZvcmU=",
	}
	receiver := gatewaytest.NewReceiver(t, ackLater)
	other := gatewaytest.StartGateway(t, config)
	other.API.Register(t, s.id, object{
		"url": receiver.URL(s.id), "topics": []string{s.topic}, "start": "earliest",
		"group_id": "foreign." + s.topic, "batch": object{"max_records": 2},
	})
	var token string
	gatewaytest.Await(t, soon, func() error {
		deliveries := receiver.Deliveries(s.id)
		if len(deliveries) == 0 {
			return fmt.Errorf("the other installation has delivered nothing; complaints %v", receiver.Complaints())
		}
		token = deliveries[0].Token
		return nil
	})
	other.Kill(t)
	return token
}

func TestAcksOfAnEarlierTenure(t *testing.T) {
	s := newScene(t, 1, ackLater)
	s.kafka.Produce(t, s.produced, numbered(s.topic, 0, 2)...)
	s.register(t, nil)
	old := s.awaitDelivery(t, 0)
	if code, _ := s.gateway.Terminate(t); code != 0 {
		t.Errorf("exit code %d, want 0: a hand-over does not wait for acks still due", code)
	}
	s.restart(t)
	again := s.awaitDelivery(t, 1)
	if again.ID != old.ID {
		t.Errorf("delivered again as %s, want the same delivery %s", again.ID, old.ID)
	}
	for name, body := range map[string]object{"by token": {"token": old.Token}, "by fields": fieldsOf(old, nil)} {
		reply, err := s.gateway.API.Ack(t.Context(), body, "")
		if err != nil {
			t.Fatal(err)
		}
		if reply.Status != http.StatusConflict || reply.Code != "generation_stale" {
			t.Errorf("%s: got %d %s, want 409 generation_stale", name, reply.Status, reply.Code)
		}
	}
	if got := s.kafka.Committed(t, s.group)[old.Partition]; got != 0 {
		t.Errorf("committed is %d, want 0: nothing moved", got)
	}
	s.checkAck(t, again, 200, "committed", 2)
	s.finish(t, soon)
}

func TestOutcomesOfADelivery(t *testing.T) {
	s := newScene(t, 1, ackLater)
	s.kafka.Produce(t, s.produced, numbered(s.topic, 0, 4)...)
	s.register(t, object{"ack": object{"timeout_ms": 60_000}})
	d := s.awaitDelivery(t, 0)
	say := func(body object, status int, word string) gatewaytest.AckReply {
		t.Helper()
		reply, err := s.gateway.API.Ack(t.Context(), body, "")
		if err != nil {
			t.Fatal(err)
		}
		if reply.Status != status || reply.Result+reply.Code != word {
			t.Errorf("%v: got %d %s%s, want %d %s", body, reply.Status, reply.Result, reply.Code, status, word)
		}
		return reply
	}

	extended := say(object{"token": d.Token, "outcome": "extend", "extend_ms": 120_000}, 200, "extended")
	if extended.Deadline == nil || time.Until(*extended.Deadline) < time.Minute {
		t.Errorf("the deadline is %v, want it two minutes from now", extended.Deadline)
	}
	say(object{"token": d.Token, "outcome": "nack", "delay_ms": 60_000, "reason": "db down"}, 200, "scheduled")
	say(object{"token": d.Token}, 409, "outcome_conflict")

	// A new tenure sends it again at once; now its head is acked, then the rest.
	if code, _ := s.gateway.Terminate(t); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
	s.restart(t)
	d = s.awaitDelivery(t, 1)
	reply, err := s.gateway.API.AckDelivery(t.Context(), s.receiver, d, 1, "")
	if err != nil || reply.Result != "committed" || reply.CommittedOffset == nil || *reply.CommittedOffset != 2 {
		t.Errorf("ack of the head: got %+v, %v; want committed up to 2", reply, err)
	}
	s.receiver.Acked(gatewaytest.Ack{Webhook: s.id, Partition: d.Partition, First: 2, Last: 3, At: time.Now()})
	var bulk struct {
		Results []struct {
			Status       int
			Result, Code string
		}
	}
	s.gateway.API.Must(t, 200, http.MethodPost, "/ack", object{"acks": []object{{"token": d.Token}, {"token": "forged"}}}).Into(t, &bulk)
	if got, want := fmt.Sprint(bulk.Results), "[{200 committed } {401  token_invalid}]"; got != want {
		t.Errorf("acks in bulk: got %s, want %s", got, want)
	}
	s.finish(t, soon)
}

func TestAcksForARetainedPartitionCount(t *testing.T) {
	const partitions = 4
	s := newScene(t, partitions, ackLater)
	for p := range int32(partitions) {
		s.kafka.Produce(t, s.produced, numbered(s.topic, p, 2)...)
	}
	s.register(t, object{"ack": object{"timeout_ms": 120_000}})
	first := map[int32]gatewaytest.Delivery{}
	s.awaitDistinct(t, 2*partitions, soon)
	for _, d := range s.receiver.Deliveries(s.id) {
		first[d.Partition.ID] = d
	}

	second := joinGroup(t, s)
	retained := map[int32]bool{}
	gatewaytest.Await(t, soon, func() error {
		clear(retained)
		for _, row := range s.gateway.API.Partitions(t, s.id) {
			if row.Owner != nil && *row.Owner != "" && row.Generation > first[row.Partition].Generation {
				retained[row.Partition] = true
			}
		}
		if len(retained) != partitions/2 {
			return fmt.Errorf("the gateway retains %v, want half of %d partitions in a later generation", retained, partitions)
		}
		return nil
	})
	for p, d := range first {
		reply, err := ackEitherWay(t.Context(), s, &d, p%2 == 0)
		switch {
		case err != nil:
			t.Fatal(err)
		case retained[p] && (reply.Status != 200 || reply.Result != "committed"):
			t.Errorf("ack for partition %d, retained: got %d %s%s, want 200 committed", p, reply.Status, reply.Result, reply.Code)
		case !retained[p] && reply.Status != 409 && reply.Status != 503:
			t.Errorf("ack for partition %d, given up: got %d %s%s, want it refused", p, reply.Status, reply.Result, reply.Code)
		}
	}
	for p, end := range s.kafka.Committed(t, s.group) {
		want := int64(0)
		if retained[p.ID] {
			want = 2
		}
		if end != want {
			t.Errorf("partition %d, retained %v: committed is %d, want %d", p.ID, retained[p.ID], end, want)
		}
	}

	second.Close()
	s.receiver.SetScript(gatewaytest.OK)
	s.awaitEnd(t, later)
	s.finish(t, soon)
}

// joinGroup has another consumer, of another client library, take its share of
// the webhook's group. It never commits.
func joinGroup(t *testing.T, s *scene) *kgo.Client {
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(s.config.Brokers), kgo.ConsumerGroup(s.group), kgo.ConsumeTopics(s.topic),
		kgo.Balancers(kgo.CooperativeStickyBalancer()), kgo.DisableAutoCommit())
	if err != nil {
		t.Fatalf("joining group %s: %v", s.group, err)
	}
	t.Cleanup(client.Close)
	return client
}

func TestAckRaces(t *testing.T) {
	var s *scene
	s = newScene(t, 1, func(d *gatewaytest.Delivery) gatewaytest.Answer {
		// The ack comes before the answer to the request itself, and is repeated.
		for range 2 {
			reply, err := s.gateway.API.AckDelivery(t.Context(), s.receiver, d, d.Last(), "accept")
			if err != nil || reply.Status/100 != 2 {
				t.Errorf("ack of %d..%d before the answer: %+v, %v; want 2xx", d.First(), d.Last(), reply, err)
			}
		}
		return gatewaytest.Answer{Status: http.StatusAccepted}
	})
	s.kafka.Produce(t, s.produced, numbered(s.topic, 0, 50)...)
	s.register(t, object{"batch": object{"max_records": 5}})
	s.awaitDistinct(t, 50, soon)
	if report := s.finish(t, soon); report.Repeats != 0 {
		t.Errorf("%d records came again, want none", report.Repeats)
	}
	if log := s.gateway.Log(); strings.Contains(log, "level=ERROR") {
		t.Errorf("the log tells of an error")
	}
}
