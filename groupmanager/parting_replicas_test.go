package groupmanager_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/kpush/kpush/groupmanager"
	"github.com/kpush/kpush/internal/gatewaytest"
	"github.com/kpush/kpush/webhooks"
)

// What a receiver says of single records, at the replica that does not have the
// partition, counts at the one that has; the audit sees no commit before its time.
func TestAPartialAckAtTheWrongReplica(t *testing.T) {
	leader, other := pair(t, func(d *gatewaytest.Delivery) gatewaytest.Answer {
		if d.Attempt == 1 {
			return gatewaytest.Answer{Status: 202}
		}
		return gatewaytest.Answer{} // what was to be sent again
	})
	leader.kafka.CreateTopic(t, "orders", 2)
	leader.kafka.CreateTopic(t, "orders.dead", 1)
	leader.webhook(t, "billing", "orders", earliest, batchOf(5), func(w *webhooks.Webhook) {
		w.Batch.LingerMs, w.DeadLetter.Topic = 60_000, new("orders.dead")
		w.Retry.InitialBackoffMs = 1
	})
	owners := shared(t, "billing", leader, other)
	leader.kafka.ProduceLoad(t, &gatewaytest.Produced{}, gatewaytest.Load{Topic: "orders", Partitions: 2, Records: 10, Size: 20})
	leader.delivered(t, "billing", 2)
	for _, d := range leader.receiver.Deliveries("billing") {
		if d.First() != 0 || d.Last() != 4 {
			t.Fatalf("a delivery of %d-%d, want all of its partition", d.First(), d.Last())
		}
		h := leader
		if owners[d.Partition.ID] == leader {
			h = other
		}
		r := groupmanager.AckRequest{Token: d.Token, Outcome: "partial", Failures: []groupmanager.AckFailure{
			{Offset: 3, Action: "retry"}, {Offset: 1, Action: "dead_letter", Reason: "no total"},
		}}
		beyond := r
		beyond.Failures = append(slices.Clone(r.Failures), groupmanager.AckFailure{Offset: 5, Action: "skip"})
		if _, err := h.ack(t, beyond); !errors.Is(err, groupmanager.ErrOffsetOutOfRange) {
			t.Errorf("%s: a record of no delivery: %v", d.Partition, err)
		}
		if a, err := h.ack(t, r); err != nil || a.Result != "pending_gap" || a.BlockedBy == nil || *a.BlockedBy != 1 {
			t.Errorf("%s: %+v, %v, want it blocked by 1", d.Partition, a, err)
		}
		if _, err := h.ack(t, groupmanager.AckRequest{Token: d.Token, Outcome: "reject"}); !errors.Is(err, groupmanager.ErrOutcomeConflict) {
			t.Errorf("%s: a reject after it: %v, want a conflict", d.Partition, err)
		}
	}
	leader.caughtUp(t, "billing")
	for _, d := range leader.receiver.Deliveries("billing") {
		if d.Attempt > 1 && (d.First() != 3 || d.Last() != 3) {
			t.Errorf("%d-%d was sent again, want 3 alone", d.First(), d.Last())
		}
	}
	letters := leader.kafka.Read(t, "orders.dead")
	if len(letters) != 2 {
		t.Fatalf("%d dead letters, want one of each partition", len(letters))
	}
	for _, letter := range letters {
		told := map[string]string{}
		for _, header := range letter.Headers {
			told[header.Key] = string(header.Value)
		}
		if told["kpush-source-offset"] != "1" || told["kpush-error-code"] != "rejected" || told["kpush-error-detail"] != "given up by the receiver: no total" {
			t.Errorf("the dead letter says %v, want offset 1 with its reason", told)
		}
	}
}

func TestARecordCannotBeDeadLetteredWithoutATopicForIt(t *testing.T) {
	leader, other := pair(t, promised)
	leader.kafka.CreateTopic(t, "orders", 2)
	leader.webhook(t, "billing", "orders", earliest, batchOf(5))
	shared(t, "billing", leader, other)
	leader.kafka.ProduceLoad(t, &gatewaytest.Produced{}, gatewaytest.Load{Topic: "orders", Partitions: 2, Records: 2, Size: 20})
	leader.delivered(t, "billing", 2)
	for _, d := range leader.receiver.Deliveries("billing") {
		r := groupmanager.AckRequest{Token: d.Token, Outcome: "partial", Failures: []groupmanager.AckFailure{{Offset: d.First(), Action: "dead_letter"}}}
		_, err := leader.ack(t, r) // one of the two is passed on
		invalid, ok := errors.AsType[*webhooks.ValidationError](err)
		if !ok || len(invalid.Fields) != 1 || invalid.Fields[0].Pointer != "/failures/0/action" {
			t.Errorf("%s: %v, want its action refused", d.Partition, err)
		}
		r.Failures[0].Action = "skip"
		if a, err := leader.ack(t, r); err != nil || a.Result != "committed" {
			t.Errorf("%s: %s, %v, want it skipped and committed", d.Partition, fmt.Sprint(a), err)
		}
	}
}
