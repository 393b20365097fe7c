package groupmanager_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kpush/kpush/groupmanager"
	"github.com/kpush/kpush/internal/gatewaytest"
	"github.com/kpush/kpush/webhooks"
	"github.com/kpush/kpush/webhooks/kafkastore"
)

// patience is how long a test waits for what must come.
const patience = 30 * time.Second

func TestRecordsReachTheReceiverInOrderAndBecomeCommittedOffsets(t *testing.T) {
	h := newHouse(t, gatewaytest.OK)
	h.kafka.CreateTopic(t, "orders", 4)
	produced := &gatewaytest.Produced{}
	h.kafka.ProduceLoad(t, produced, gatewaytest.Load{Topic: "orders", Partitions: 4, Records: 2000, Size: 100})
	h.webhook(t, "billing", "orders", earliest)
	h.caughtUp(t, "billing")
	r := h.audit(t, "billing", "orders", produced, true)
	if r.Records != 2000 || r.Repeats != 0 {
		t.Errorf("%d records with %d repeats, want 2000 and 0", r.Records, r.Repeats)
	}
}

// A start that is pinned stays: the webhook as it is put right later would begin there.
func TestAWebhookThatIsRefusedPinsNothing(t *testing.T) {
	h := newHouse(t, gatewaytest.OK)
	h.kafka.CreateTopic(t, "orders", 2)
	spec := h.spec(t, "billing", "orders", func(w *webhooks.Webhook) {
		w.Request.Headers = map[string]string{"authorization": webhooks.Mask}
	})
	if _, err := h.Create(t.Context(), spec); !isInvalid(err) {
		t.Errorf("creating it with a mask that stands for nothing: %v, want a *ValidationError", err)
	}
	if got, err := h.kafka.Admin().FetchOffsets(t.Context(), "kpush.default.billing"); !errors.Is(err, kerr.GroupIDNotFound) {
		t.Errorf("the group has committed %v (%v), want no group", got, err)
	}
}

func isInvalid(err error) bool {
	_, ok := errors.AsType[*webhooks.ValidationError](err)
	return ok
}

func TestLatestIsPinnedBeforeTheAnswer(t *testing.T) {
	h := newHouse(t, gatewaytest.OK)
	h.kafka.CreateTopic(t, "orders", 2)
	before, after := &gatewaytest.Produced{}, &gatewaytest.Produced{}
	h.kafka.ProduceLoad(t, before, gatewaytest.Load{Topic: "orders", Partitions: 2, Records: 10, Size: 20})
	h.webhook(t, "billing", "orders")
	h.kafka.ProduceLoad(t, after, gatewaytest.Load{Topic: "orders", Partitions: 2, Records: 10, Size: 20})
	h.caughtUp(t, "billing")
	n := 0
	for _, d := range h.receiver.Deliveries("billing") {
		n += len(d.Records)
		if d.First() < 5 {
			t.Errorf("delivered from offset %d, want nothing from before the registration", d.First())
		}
	}
	if n != 10 {
		t.Errorf("%d records delivered, want the 10 after the registration", n)
	}
}

func TestRegisteringIsRefused(t *testing.T) {
	h := newHouse(t, gatewaytest.OK)
	h.kafka.CreateTopic(t, "orders", 1)
	h.webhook(t, "first", "orders")
	var missing *groupmanager.TopicError
	if _, err := h.Create(t.Context(), h.spec(t, "x", "nowhere")); !errors.As(err, &missing) || missing.Topic != "nowhere" {
		t.Errorf("a topic that does not exist: %v, want a TopicError", err)
	}
	var invalid *webhooks.ValidationError
	if _, err := h.Create(t.Context(), h.spec(t, "x", kafkastore.DefaultTopic)); !errors.As(err, &invalid) || invalid.Fields[0].Pointer != "/topics/0" {
		t.Errorf("the registry's topic: %v, want a ValidationError about /topics/0", err)
	}
	if _, err := h.Create(t.Context(), h.spec(t, "first", "orders")); !errors.Is(err, webhooks.ErrExists) {
		t.Errorf("the same id again: %v, want ErrExists", err)
	}
	taken := h.spec(t, "second", "orders", func(w *webhooks.Webhook) { w.GroupID = "kpush.default.first" })
	if _, err := h.Create(t.Context(), taken); !errors.Is(err, webhooks.ErrGroupInUse) {
		t.Errorf("the group of another webhook: %v, want ErrGroupInUse", err)
	}
	foreign := gatewaytest.DialKafka(t, h.brokers, kgo.ConsumerGroup("foreign"), kgo.ConsumeTopics("orders"), kgo.DisableAutoCommit())
	gatewaytest.Await(t, patience, func() error {
		if g, err := h.kafka.Admin().DescribeGroups(t.Context(), "foreign"); err != nil || len(g["foreign"].Members) == 0 {
			return fmt.Errorf("the foreign group has no member yet: %v", err)
		}
		return nil
	})
	_ = foreign
	taken = h.spec(t, "third", "orders", func(w *webhooks.Webhook) { w.GroupID = "foreign" })
	if _, err := h.Create(t.Context(), taken); !errors.Is(err, webhooks.ErrGroupInUse) {
		t.Errorf("a group with foreign members: %v, want ErrGroupInUse", err)
	}
}

// promised answers 202 until the test lets it ack by status.
func promised(*gatewaytest.Delivery) gatewaytest.Answer { return gatewaytest.Answer{Status: 202} }

// delivered waits for the n-th delivery to a webhook.
func (h *house) delivered(t *testing.T, id string, n int) gatewaytest.Delivery {
	t.Helper()
	gatewaytest.Await(t, patience, func() error {
		if got := len(h.receiver.Deliveries(id)); got < n {
			return fmt.Errorf("%d deliveries, want %d", got, n)
		}
		return nil
	})
	return h.receiver.Deliveries(id)[n-1]
}

func (h *house) committed(t *testing.T, id, topic string) int64 {
	t.Helper()
	return h.kafka.Committed(t, "kpush.default."+id)[gatewaytest.Partition{Topic: topic, ID: 0}]
}

func TestAnAckGetsExactlyItsAnswer(t *testing.T) {
	h := newHouse(t, promised)
	h.kafka.CreateTopic(t, "orders", 1)
	produced := &gatewaytest.Produced{}
	h.webhook(t, "billing", "orders", earliest, batchOf(5))
	h.kafka.ProduceLoad(t, produced, gatewaytest.Load{Topic: "orders", Partitions: 1, Records: 5, Size: 20})
	d := h.delivered(t, "billing", 1)
	last := d.Last() // with linger 0 the first delivery may be short
	fields := func(change func(*groupmanager.AckRequest)) groupmanager.AckRequest {
		r := groupmanager.AckRequest{Tenant: "default", WebhookID: "billing", Topic: "orders", Generation: d.Generation, Offset: last}
		if change != nil {
			change(&r)
		}
		return r
	}
	ack := func(r groupmanager.AckRequest) (groupmanager.AckAnswer, error) { return h.Ack(t.Context(), r) }
	refusals := []struct {
		name string
		ask  groupmanager.AckRequest
		want error
	}{
		{"a forged token", groupmanager.AckRequest{Token: d.Token[:len(d.Token)-2] + "xx"}, groupmanager.ErrTokenInvalid},
		{"another webhook", fields(func(r *groupmanager.AckRequest) { r.WebhookID = "other" }), groupmanager.ErrWebhookNotFound},
		{"another tenant", fields(func(r *groupmanager.AckRequest) { r.Tenant = "other" }), groupmanager.ErrWebhookNotFound},
		{"a topic that is not its own", fields(func(r *groupmanager.AckRequest) { r.Topic = "x" }), groupmanager.ErrPartitionNotFound},
		{"a partition that does not exist", fields(func(r *groupmanager.AckRequest) { r.Partition = 7 }), groupmanager.ErrPartitionNotFound},
		{"an offset never delivered", fields(func(r *groupmanager.AckRequest) { r.Offset = 99 }), groupmanager.ErrOffsetOutOfRange},
		{"up to an offset beyond the delivery", groupmanager.AckRequest{Token: d.Token, UpToOffset: new(last + 1)}, groupmanager.ErrOffsetOutOfRange},
	}
	for _, c := range refusals {
		if _, err := ack(c.ask); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}
	for name, generation := range map[string]int32{"an older generation": d.Generation - 1, "a newer generation": d.Generation + 1} {
		var stale *groupmanager.StaleError
		_, err := ack(fields(func(r *groupmanager.AckRequest) { r.Generation = generation }))
		if !errors.As(err, &stale) || stale.Current != d.Generation {
			t.Errorf("%s: %v, want stale with the current generation %d", name, err, d.Generation)
		}
	}
	if got := h.committed(t, "billing", "orders"); got != 0 {
		t.Fatalf("committed offset %d after refusals only, want 0", got)
	}
	if a, err := ack(groupmanager.AckRequest{Token: d.Token}); err != nil || a.Result != "committed" || *a.CommittedOffset != last+1 {
		t.Errorf("the ack: %+v, %v, want committed up to %d", a, err, last+1)
	}
	if got := h.committed(t, "billing", "orders"); got != last+1 {
		t.Errorf("committed offset %d right after the answer, want %d", got, last+1)
	}
	for _, r := range []groupmanager.AckRequest{{Token: d.Token}, fields(nil)} {
		if a, err := ack(r); err != nil || a.Result != "already_committed" {
			t.Errorf("the ack again: %+v, %v, want already_committed", a, err)
		}
	}
	if _, err := ack(groupmanager.AckRequest{Token: d.Token, Outcome: "nack"}); !errors.Is(err, groupmanager.ErrOutcomeConflict) {
		t.Errorf("a nack after the ack: %v, want a conflict", err)
	}
}

// disabled waits until the receiver's 410 has disabled the webhook.
func (h *house) disabled(t *testing.T, id string) {
	t.Helper()
	gatewaytest.Await(t, patience, func() error {
		e, err := h.Get("default", id)
		if err != nil || e.Webhook.State != webhooks.Disabled || e.Webhook.StateReason == nil || *e.Webhook.StateReason != "gone" {
			return fmt.Errorf("state %s (%v), want disabled", e.Webhook.State, err)
		}
		return nil
	})
}

func gone(*gatewaytest.Delivery) gatewaytest.Answer { return gatewaytest.Answer{Status: 410} }

// A resumption changes the webhook and not its member: a 410 was told of the webhook as
// it stood when the member was made, and only the first one disabled it. After another
// it stood still and was shown as active.
func TestGoneDisablesAndResumeEnables(t *testing.T) {
	h := newHouse(t, gone)
	h.kafka.CreateTopic(t, "orders", 1)
	produced := &gatewaytest.Produced{}
	h.webhook(t, "billing", "orders", earliest)
	h.kafka.ProduceLoad(t, produced, gatewaytest.Load{Topic: "orders", Partitions: 1, Records: 1, Size: 20})
	h.disabled(t, "billing")
	if _, err := h.Resume(t.Context(), "default", "billing"); err != nil {
		t.Fatal(err)
	}
	h.disabled(t, "billing")
	if n := len(h.receiver.Deliveries("billing")); n != 2 {
		t.Errorf("%d attempts, want one of each time that it was active", n)
	}
	h.receiver.SetScript(gatewaytest.OK)
	if _, err := h.Resume(t.Context(), "default", "billing"); err != nil {
		t.Fatal(err)
	}
	h.caughtUp(t, "billing")
}

func TestGoneDisablesAWebhookThatWasPausedBefore(t *testing.T) {
	h := newHouse(t, gone)
	h.kafka.CreateTopic(t, "orders", 1)
	produced := &gatewaytest.Produced{}
	h.webhook(t, "billing", "orders", earliest)
	h.caughtUp(t, "billing") // the member has been made
	for _, change := range []func() (webhooks.Entry, error){
		func() (webhooks.Entry, error) { return h.Pause(t.Context(), "default", "billing") },
		func() (webhooks.Entry, error) { return h.Resume(t.Context(), "default", "billing") },
	} {
		if _, err := change(); err != nil {
			t.Fatal(err)
		}
	}
	h.kafka.ProduceLoad(t, produced, gatewaytest.Load{Topic: "orders", Partitions: 1, Records: 1, Size: 20})
	h.disabled(t, "billing")
}

func TestPausedSendsNothingKeepsItsMemberAndGoesOn(t *testing.T) {
	h := newHouse(t, gatewaytest.OK)
	h.kafka.CreateTopic(t, "orders", 1)
	produced := &gatewaytest.Produced{}
	h.webhook(t, "billing", "orders", earliest)
	h.kafka.ProduceLoad(t, produced, gatewaytest.Load{Topic: "orders", Partitions: 1, Records: 3, Size: 20})
	h.caughtUp(t, "billing")
	if _, err := h.Pause(t.Context(), "default", "billing"); err != nil {
		t.Fatal(err)
	}
	before := len(h.receiver.Deliveries("billing"))
	h.kafka.ProduceLoad(t, produced, gatewaytest.Load{Topic: "orders", Partitions: 1, Records: 3, Size: 20})
	gatewaytest.Await(t, patience, func() error { // the member sees the records, and the pause
		rows, err := h.Partitions(t.Context(), "default", "billing")
		if err != nil || rows[0].State != groupmanager.PartitionPaused || *rows[0].Lag != 3 {
			return fmt.Errorf("%+v, %v", rows, err)
		}
		return nil
	})
	if got := len(h.receiver.Deliveries("billing")); got != before {
		t.Errorf("%d deliveries while paused", got-before)
	}
	if _, err := h.Resume(t.Context(), "default", "billing"); err != nil {
		t.Fatal(err)
	}
	h.caughtUp(t, "billing")
	h.audit(t, "billing", "orders", produced, true)
}

func TestAChangedWebhookGoesOnWhereItWas(t *testing.T) {
	h := newHouse(t, gatewaytest.OK)
	h.kafka.CreateTopic(t, "orders", 2)
	produced := &gatewaytest.Produced{}
	h.webhook(t, "billing", "orders", earliest)
	h.kafka.ProduceLoad(t, produced, gatewaytest.Load{Topic: "orders", Partitions: 2, Records: 100, Size: 20})
	h.caughtUp(t, "billing")
	if _, created, err := h.Put(t.Context(), h.spec(t, "billing", "orders", earliest, batchOf(1)), nil); err != nil || created {
		t.Fatalf("put: created %v, %v", created, err)
	}
	h.kafka.ProduceLoad(t, produced, gatewaytest.Load{Topic: "orders", Partitions: 2, Records: 100, Size: 20})
	h.caughtUp(t, "billing")
	if r := h.audit(t, "billing", "orders", produced, true); r.Repeats != 0 {
		t.Errorf("%d records came twice over a change of the webhook, want 0", r.Repeats)
	}
}

func TestADeletedWebhookIsNotSentToAndItsOffsetsStayUnlessAsked(t *testing.T) {
	h := newHouse(t, gatewaytest.OK)
	h.kafka.CreateTopic(t, "orders", 1)
	produced := &gatewaytest.Produced{}
	h.webhook(t, "billing", "orders", earliest)
	h.kafka.ProduceLoad(t, produced, gatewaytest.Load{Topic: "orders", Partitions: 1, Records: 3, Size: 20})
	h.caughtUp(t, "billing")
	if err := h.Delete(t.Context(), "default", "billing", false); err != nil {
		t.Fatal(err)
	}
	before := len(h.receiver.Deliveries("billing"))
	h.kafka.ProduceLoad(t, produced, gatewaytest.Load{Topic: "orders", Partitions: 1, Records: 3, Size: 20})
	if got := h.committed(t, "billing", "orders"); got != 3 {
		t.Errorf("committed offset %d after the deletion, want it kept at 3", got)
	}
	// Created again it goes on where the group stands: at once, though the former member may still be leaving.
	h.webhook(t, "billing", "orders")
	h.caughtUp(t, "billing")
	if got := len(h.receiver.Deliveries("billing")); got == before {
		t.Error("nothing was delivered after it was created again")
	}
	if r := h.audit(t, "billing", "orders", produced, true); r.Repeats != 0 {
		t.Errorf("%d repeats, want 0", r.Repeats)
	}
	if err := h.Delete(t.Context(), "default", "billing", true); err != nil {
		t.Fatal(err)
	}
	if got, err := h.kafka.Admin().FetchOffsets(t.Context(), "kpush.default.billing"); !errors.Is(err, kerr.GroupIDNotFound) {
		t.Errorf("offsets %v (%v) after a deletion with offsets, want no group", got, err)
	}
}

func TestAStopCommitsWhatWasDeliveredAndARestartGoesOn(t *testing.T) {
	h := newHouse(t, gatewaytest.OK)
	h.kafka.CreateTopic(t, "orders", 4)
	produced := &gatewaytest.Produced{}
	h.webhook(t, "billing", "orders", earliest, batchOf(10))
	h.kafka.ProduceLoad(t, produced, gatewaytest.Load{Topic: "orders", Partitions: 4, Records: 4000, Size: 50})
	h.delivered(t, "billing", 20)
	h.stop()
	h.start(t)
	h.caughtUp(t, "billing")
	if r := h.audit(t, "billing", "orders", produced, true); r.Repeats != 0 {
		t.Errorf("%d records came twice over a clean restart, want 0", r.Repeats)
	}
}

func TestAnAckForARetainedPartitionCountsAfterACooperativeRebalance(t *testing.T) {
	h := newHouse(t, promised)
	h.kafka.CreateTopic(t, "orders", 2)
	produced := &gatewaytest.Produced{}
	h.webhook(t, "billing", "orders", earliest)
	h.kafka.ProduceLoad(t, produced, gatewaytest.Load{Topic: "orders", Partitions: 2, Records: 2, Size: 20})
	h.delivered(t, "billing", 2)
	deliveries := h.receiver.Deliveries("billing")

	gatewaytest.DialKafka(t, h.brokers, kgo.ConsumerGroup("kpush.default.billing"), kgo.ConsumeTopics("orders"),
		kgo.DisableAutoCommit(), kgo.Balancers(kgo.CooperativeStickyBalancer()))
	var kept int32 = -1
	gatewaytest.Await(t, patience, func() error {
		rows, err := h.Partitions(t.Context(), "default", "billing")
		if err != nil {
			return err
		}
		owned := 0
		for _, r := range rows {
			if r.Owner != "" && r.Generation > deliveries[0].Generation {
				owned, kept = owned+1, r.Partition
			}
		}
		if owned != 1 {
			return fmt.Errorf("%d partitions kept at a newer generation, want 1: %+v", owned, rows)
		}
		return nil
	})
	for _, d := range deliveries {
		a, err := h.Ack(t.Context(), groupmanager.AckRequest{Token: d.Token})
		switch {
		case d.Partition.ID == kept && (err != nil || a.Result != "committed"):
			t.Errorf("ack of the retained partition: %+v, %v, want committed", a, err)
		case d.Partition.ID != kept && err == nil:
			t.Errorf("ack of the partition that was given up: %+v, want a refusal", a)
		}
	}
}

func TestPartitionsAddedLaterBeginAtTheEarliest(t *testing.T) {
	h := newHouse(t, gatewaytest.OK)
	h.kafka.CreateTopic(t, "orders", 1)
	h.webhook(t, "billing", "orders")
	h.caughtUp(t, "billing")
	if _, err := h.kafka.Admin().CreatePartitions(t.Context(), 1, "orders"); err != nil {
		t.Fatal(err)
	}
	produced := &gatewaytest.Produced{}
	h.kafka.ProduceLoad(t, produced, gatewaytest.Load{Topic: "orders", Partitions: 2, Records: 20, Size: 20})
	h.caughtUp(t, "billing")
	h.audit(t, "billing", "orders", produced, true)
}

func TestACommittedOffsetThatIsGone(t *testing.T) {
	for _, policy := range []string{webhooks.ResetError, webhooks.ResetEarliest, webhooks.ResetLatest} {
		t.Run(policy, func(t *testing.T) {
			h := newHouse(t, gatewaytest.OK)
			h.kafka.CreateTopic(t, "orders", 1)
			produced := &gatewaytest.Produced{}
			h.kafka.ProduceLoad(t, produced, gatewaytest.Load{Topic: "orders", Partitions: 1, Records: 100, Size: 20})
			paused := h.spec(t, "billing", "orders", earliest, func(w *webhooks.Webhook) { w.OffsetReset = policy })
			if _, err := h.Create(t.Context(), paused); err != nil {
				t.Fatal(err)
			}
			h.caughtUp(t, "billing")
			h.stop()
			h.kafka.ProduceLoad(t, produced, gatewaytest.Load{Topic: "orders", Partitions: 1, Records: 100, Size: 20})
			offsets := kadm.Offsets{}
			offsets.Add(kadm.Offset{Topic: "orders", Partition: 0, At: 150})
			if _, err := h.kafka.Admin().DeleteRecords(t.Context(), offsets); err != nil {
				t.Fatal(err)
			}
			before := len(h.receiver.Deliveries("billing"))
			h.start(t)
			if policy != webhooks.ResetError {
				h.caughtUp(t, "billing")
				n := 0
				for _, d := range h.receiver.Deliveries("billing")[before:] {
					n += len(d.Records)
				}
				if want := map[string]int{webhooks.ResetEarliest: 50, webhooks.ResetLatest: 0}[policy]; n != want {
					t.Errorf("%d records delivered after the reset, want %d", n, want)
				}
				return
			}
			gatewaytest.Await(t, patience, func() error {
				e, err := h.Get("default", "billing")
				if err != nil || e.Webhook.State != webhooks.Failed || *e.Webhook.StateReason != "offset_out_of_range" {
					return fmt.Errorf("state %s, %v", e.Webhook.State, err)
				}
				return nil
			})
			if got := h.committed(t, "billing", "orders"); got != 100 {
				t.Errorf("committed offset %d, want it left at 100", got)
			}
		})
	}
}
