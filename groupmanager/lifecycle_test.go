package groupmanager

import (
	"context"
	"log/slog"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kpush/kpush/webhooks"
	"github.com/kpush/kpush/webhooks/delivery"
)

// call is one lifecycle call as the scripted receiver sees it.
type call struct {
	delivery.Notice
	id     string
	at     time.Time
	answer chan delivery.Result // one slot
}

func (c *call) reply(status int) { c.answer <- resultOf(status, 0) }

func resultOf(status int, retryAfter time.Duration) delivery.Result {
	r := delivery.Result{Verdict: delivery.Failed, Status: status, Code: "http_" + strconv.Itoa(status), RetryAfter: retryAfter, At: time.Now()}
	switch status {
	case 200:
		r.Verdict, r.Code = delivery.Acked, ""
	case 410:
		r.Verdict = delivery.Gone
	}
	return r
}

// callee is a receiver of lifecycle calls that answers when the test says so.
type callee struct{ calls chan *call }

func (e *callee) Notify(ctx context.Context, id string, n delivery.Notice) delivery.Result {
	c := &call{Notice: n, id: id, at: time.Now(), answer: make(chan delivery.Result, 1)}
	e.calls <- c
	select {
	case r := <-c.answer:
		return r
	case <-ctx.Done():
		return delivery.Result{Verdict: delivery.Failed, Code: delivery.CodeCanceled, At: time.Now()}
	}
}

// next waits for a call, of partitions 0, 1, ... of one topic.
func (e *callee) next(t *testing.T, kind string, generation int32, partitions ...int32) *call {
	t.Helper()
	c := <-e.calls
	want := delivery.Notice{Type: kind, Generation: generation, Now: c.at}
	for _, p := range partitions {
		want.Partitions = append(want.Partitions, delivery.Partition{Topic: "orders", Partition: p})
	}
	if diff := cmp.Diff(want, c.Notice); diff != "" {
		t.Fatalf("another call came (-want +got):\n%s", diff)
	}
	return c
}

// silent says that no call is made, nor will be without something new.
func (e *callee) silent(t *testing.T) {
	t.Helper()
	time.Sleep(time.Hour)
	select {
	case c := <-e.calls:
		t.Errorf("a call came: %+v", c.Notice)
	default:
	}
}

// calling runs a test in a bubble, with a lifecycle and its receiver.
func calling(t *testing.T, test func(t *testing.T, l *lifecycle, receiver *callee)) {
	synctest.Test(t, func(t *testing.T) {
		receiver := &callee{make(chan *call, 100)}
		l := newLifecycle(receiver, webhooks.Default().Retry, slog.New(slog.DiscardHandler))
		defer l.close()
		test(t, l, receiver)
	})
}

// arrive makes partitions that wait to be announced.
func arrive(numbers ...int32) []*partition {
	var ps []*partition
	for _, n := range numbers {
		p := &partition{
			tenure:  newTenure(topicPartition{"orders", n}, [16]byte{}, 42, position{offset: -1}),
			changed: make(chan struct{}, 1),
			done:    make(chan struct{}),
		}
		p.tenure.waiting.Store(true)
		ps = append(ps, p)
	}
	return ps
}

func names(numbers ...int32) []topicPartition {
	var tps []topicPartition
	for _, n := range numbers {
		tps = append(tps, topicPartition{"orders", n})
	}
	return tps
}

// expectWaiting compares which partitions wait, and that the others were nudged.
func expectWaiting(t *testing.T, ps []*partition, want ...bool) {
	t.Helper()
	synctest.Wait()
	for i, p := range ps {
		if got := p.tenure.waiting.Load(); got != want[i] {
			t.Errorf("partition %d waits: %v, want %v", p.tenure.partition, got, want[i])
		}
		if nudged := len(p.changed) > 0; nudged == want[i] {
			t.Errorf("partition %d was nudged: %v, want %v", p.tenure.partition, nudged, !want[i])
		}
	}
}

func TestPartitionsWaitUntilTheirAssignmentIsConfirmed(t *testing.T) {
	calling(t, func(t *testing.T, l *lifecycle, receiver *callee) {
		ps := arrive(0, 1, 2)
		l.assigned(42, ps)
		c := receiver.next(t, delivery.PartitionsAssigned, 42, 0, 1, 2)
		if !strings.HasPrefix(c.id, "lc_") || strings.Contains(c.id, ".") {
			t.Errorf("the call's id is %q", c.id)
		}
		time.Sleep(time.Hour)
		expectWaiting(t, ps, true, true, true)
		c.reply(200)
		expectWaiting(t, ps, false, false, false)
		receiver.silent(t)
	})
}

func TestNothingIsDeliveredBeforeTheReceiverHasConfirmed(t *testing.T) {
	calling(t, func(t *testing.T, l *lifecycle, receiver *callee) {
		r := newRig(t, acked)
		r.tenure.waiting.Store(true)
		r.queue.put(10, 11)
		r.start(t)
		l.assigned(7, []*partition{r.partition})
		for range 3 {
			(<-receiver.calls).reply(500)
			time.Sleep(time.Hour)
			r.wantRequests(t)
		}
		(<-receiver.calls).reply(200)
		r.wantRequests(t, [2]int64{10, 11})
		r.wantSafe(t, 12)
	})
}

func TestAnAssignedCallIsRetriedWithBackoff(t *testing.T) {
	calling(t, func(t *testing.T, l *lifecycle, receiver *callee) {
		ps := arrive(0, 1)
		l.assigned(42, ps)
		c := receiver.next(t, delivery.PartitionsAssigned, 42, 0, 1)
		ceiling := 500 * time.Millisecond
		for n := 1; n <= 30; n++ {
			first := c
			c.reply([]int{500, 404, 410, 413, 302}[n%5])
			c = receiver.next(t, delivery.PartitionsAssigned, 42, 0, 1)
			if c.id != first.id {
				t.Errorf("attempt %d has id %q, the one before %q", n+1, c.id, first.id)
			}
			if waited := c.at.Sub(first.at); waited > ceiling {
				t.Errorf("attempt %d came after %v, want at most %v", n+1, waited, ceiling)
			}
			ceiling = min(2*ceiling, time.Minute)
		}
		expectWaiting(t, ps, true, true)

		first := c
		c.answer <- resultOf(503, 50*time.Second)
		c = receiver.next(t, delivery.PartitionsAssigned, 42, 0, 1)
		if waited := c.at.Sub(first.at); waited < 50*time.Second || waited > time.Minute {
			t.Errorf("the receiver asked for 50s, and %v passed", waited)
		}
		c.reply(200)
		expectWaiting(t, ps, false, false)
	})
}

func TestTheBackoffOfAnAssignedCallIsNotAlwaysZero(t *testing.T) {
	calling(t, func(t *testing.T, l *lifecycle, receiver *callee) {
		began := time.Now()
		l.assigned(42, arrive(0))
		for range 30 {
			receiver.next(t, delivery.PartitionsAssigned, 42, 0).reply(500)
		}
		c := receiver.next(t, delivery.PartitionsAssigned, 42, 0)
		if took := c.at.Sub(began); took < time.Minute { // on average it is over ten
			t.Errorf("31 attempts were made in %v", took)
		}
		c.reply(200)
	})
}

func TestPartitionsThatHaveEndedAreLeftOutOfTheNextAttempt(t *testing.T) {
	calling(t, func(t *testing.T, l *lifecycle, receiver *callee) {
		ps := arrive(0, 1, 2)
		l.assigned(42, ps)
		first := receiver.next(t, delivery.PartitionsAssigned, 42, 0, 1, 2)
		close(ps[1].done)
		first.reply(500)
		second := receiver.next(t, delivery.PartitionsAssigned, 42, 0, 2)
		if first.id != second.id {
			t.Errorf("the ids are %q and %q, want one", first.id, second.id)
		}
		close(ps[0].done)
		close(ps[2].done)
		second.reply(500)
		receiver.silent(t)
	})
}

func TestAnAssignmentDoesNotWaitBehindAnother(t *testing.T) {
	calling(t, func(t *testing.T, l *lifecycle, receiver *callee) {
		early, late := arrive(0), arrive(1)
		l.assigned(42, early)
		hanging := receiver.next(t, delivery.PartitionsAssigned, 42, 0)
		l.assigned(43, late)
		receiver.next(t, delivery.PartitionsAssigned, 43, 1).reply(200)
		expectWaiting(t, late, false)
		expectWaiting(t, early, true)
		hanging.reply(200)
		expectWaiting(t, early, false)
	})
}

// confirm announces partitions and has the receiver confirm them.
func confirm(t *testing.T, l *lifecycle, receiver *callee, partitions ...int32) {
	t.Helper()
	l.assigned(42, arrive(partitions...))
	receiver.next(t, delivery.PartitionsAssigned, 42, partitions...).reply(200)
	synctest.Wait()
}

// giving calls given aside and returns how long it took.
func giving(l *lifecycle, generation int32, tps []topicPartition, lost bool, patience time.Duration) <-chan time.Duration {
	took := make(chan time.Duration, 1)
	go func() {
		began := time.Now()
		l.given(generation, tps, lost, began.Add(patience))
		took <- time.Since(began)
	}()
	return took
}

func TestWhatIsGivenUpIsToldOnceAsRevokedOrLost(t *testing.T) {
	for lost, kind := range map[bool]string{false: delivery.PartitionsRevoked, true: delivery.PartitionsLost} {
		for _, status := range []int{200, 500, 410} {
			calling(t, func(t *testing.T, l *lifecycle, receiver *callee) {
				confirm(t, l, receiver, 0, 1, 2)
				took := giving(l, 44, names(0, 2), lost, 5*time.Second)
				c := receiver.next(t, kind, 44, 0, 2)
				time.Sleep(time.Second)
				c.reply(status)
				if took := <-took; took != time.Second {
					t.Errorf("given took %v, want as long as the receiver took to answer", took)
				}
				receiver.silent(t)
				<-giving(l, 45, names(0, 2), lost, 5*time.Second) // they have gone already
				receiver.silent(t)
			})
		}
	}
}

func TestTheGenerationOfALossIsTheLastThatTheMemberHad(t *testing.T) {
	calling(t, func(t *testing.T, l *lifecycle, receiver *callee) {
		confirm(t, l, receiver, 0, 1)
		for _, p := range []int32{0, 1} {
			took := giving(l, -1, names(p), true, 5*time.Second)
			receiver.next(t, delivery.PartitionsLost, 42, p).reply(200)
			<-took
		}
	})
}

func TestAHangingReceiverDoesNotHoldARevokeBeyondTheDeadline(t *testing.T) {
	calling(t, func(t *testing.T, l *lifecycle, receiver *callee) {
		confirm(t, l, receiver, 0)
		l.assigned(43, arrive(1))
		receiver.next(t, delivery.PartitionsAssigned, 43, 1)
		took := giving(l, 44, names(0, 1), false, 5*time.Second)
		receiver.next(t, delivery.PartitionsRevoked, 44, 0)
		if took := <-took; took != 5*time.Second {
			t.Errorf("given took %v, want exactly until the deadline", took)
		}
	})
}

func TestAPartitionThatWasNeverConfirmedIsNotToldAsRevoked(t *testing.T) {
	calling(t, func(t *testing.T, l *lifecycle, receiver *callee) {
		ps := arrive(0, 1)
		l.assigned(42, ps)
		receiver.next(t, delivery.PartitionsAssigned, 42, 0, 1).reply(500)
		synctest.Wait() // it backs off
		if took := <-giving(l, 43, names(0, 1), false, 5*time.Second); took != 0 {
			t.Errorf("given took %v with nobody to tell", took)
		}
		synctest.Wait()
		if n := len(l.pending); n != 0 {
			t.Errorf("%d announcements of nothing are pending, want none", n)
		}
		receiver.silent(t)
		expectWaiting(t, ps, true, true)
	})
}

func TestACallUnderWayIsCutAndGoesOnWithoutWhatWasGivenUp(t *testing.T) {
	calling(t, func(t *testing.T, l *lifecycle, receiver *callee) {
		ps := arrive(0, 1)
		l.assigned(42, ps)
		first := receiver.next(t, delivery.PartitionsAssigned, 42, 0, 1)
		if took := <-giving(l, 43, names(0), false, 5*time.Second); took != 0 {
			t.Errorf("given took %v with nobody to tell", took)
		}
		second := receiver.next(t, delivery.PartitionsAssigned, 42, 1)
		if second.id != first.id || !second.at.Equal(first.at) {
			t.Errorf("the second attempt has id %q and came after %v, want %q at once", second.id, second.at.Sub(first.at), first.id)
		}
		second.reply(200)
		expectWaiting(t, ps, true, false)
		<-giving(l, 44, names(0), true, 5*time.Second)
		receiver.silent(t)
	})
}

// The answer may be there already when the partitions are given up: then the
// receiver believes that it has them and has to be told.
func TestWhatWasConfirmedWhileItWasGivenUpIsToldAsRevoked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		receiver := &callee{make(chan *call, 100)}
		stubborn := &deafNotifier{receiver}
		l := newLifecycle(stubborn, webhooks.Default().Retry, slog.New(slog.DiscardHandler))
		defer l.close()
		l.assigned(42, arrive(0, 1))
		c := receiver.next(t, delivery.PartitionsAssigned, 42, 0, 1)
		took := giving(l, 43, names(0), false, 5*time.Second)
		synctest.Wait() // it has cut the call and waits for its end
		c.reply(200)
		receiver.next(t, delivery.PartitionsRevoked, 43, 0).reply(200)
		<-took
	})
}

// deafNotifier makes calls that do not end with their context.
type deafNotifier struct{ *callee }

func (d *deafNotifier) Notify(_ context.Context, id string, n delivery.Notice) delivery.Result {
	return d.callee.Notify(context.Background(), id, n)
}

func TestAPartitionThatComesBackIsAnnouncedAnew(t *testing.T) {
	calling(t, func(t *testing.T, l *lifecycle, receiver *callee) {
		confirm(t, l, receiver, 0)
		took := giving(l, 43, names(0), false, 5*time.Second)
		receiver.next(t, delivery.PartitionsRevoked, 43, 0).reply(200)
		<-took
		ps := arrive(0)
		l.assigned(44, ps)
		c := receiver.next(t, delivery.PartitionsAssigned, 44, 0)
		expectWaiting(t, ps, true)
		c.reply(200)
		expectWaiting(t, ps, false)
	})
}

func TestCloseEndsCallsUnderWayAndThoseStillToCome(t *testing.T) {
	calling(t, func(t *testing.T, l *lifecycle, receiver *callee) {
		hanging, failing := arrive(0), arrive(1)
		l.assigned(42, hanging)
		receiver.next(t, delivery.PartitionsAssigned, 42, 0)
		l.assigned(43, failing)
		receiver.next(t, delivery.PartitionsAssigned, 43, 1).reply(500)
		synctest.Wait()
		began := time.Now()
		l.close()
		if took := time.Since(began); took != 0 {
			t.Errorf("close took %v", took)
		}
		l.assigned(44, arrive(2))
		l.given(44, names(0, 1), false, time.Now().Add(time.Second))
		receiver.silent(t)
		expectWaiting(t, append(hanging, failing...), true, true)
	})
}

func TestWithoutALifecycleNobodyIsTold(t *testing.T) {
	var l *lifecycle
	l.assigned(42, arrive(0))
	l.given(42, names(0), false, time.Now())
	l.explain(new(PartitionStatus))
	l.close()
}

func TestARowTellsOfTheCallItsPartitionWaitsFor(t *testing.T) {
	calling(t, func(t *testing.T, l *lifecycle, receiver *callee) {
		row := func(p int32) PartitionStatus {
			synctest.Wait()
			s := PartitionStatus{Topic: "orders", Partition: p, State: PartitionWaitingLifecycle}
			l.explain(&s)
			return s
		}
		expect := func(p int32, want PartitionStatus) {
			t.Helper()
			want.Topic, want.Partition, want.State = "orders", p, PartitionWaitingLifecycle
			if diff := cmp.Diff(want, row(p)); diff != "" {
				t.Errorf("another row (-want +got):\n%s", diff)
			}
		}
		l.assigned(42, arrive(0))
		c := receiver.next(t, delivery.PartitionsAssigned, 42, 0)
		expect(0, PartitionStatus{Attempt: 1})
		expect(1, PartitionStatus{})
		c.answer <- resultOf(503, 50*time.Second)
		expect(0, PartitionStatus{
			Attempt: 1, NextAttemptAt: new(c.at.Add(50 * time.Second)),
			LastError: &AttemptError{Code: "http_503", Status: 503, At: c.at},
		})
		other := PartitionStatus{Topic: "orders", State: PartitionPaused}
		if l.explain(&other); other.Attempt != 0 || other.LastError != nil {
			t.Errorf("a partition that is paused tells of the call: %+v", other)
		}
		failed := c.at
		c = receiver.next(t, delivery.PartitionsAssigned, 42, 0)
		expect(0, PartitionStatus{Attempt: 2, LastError: &AttemptError{Code: "http_503", Status: 503, At: failed}})
		c.reply(200)
		expect(0, PartitionStatus{})
	})
}

// TestAssignmentsAndRevokesCross lets them meet in any order: whatever the receiver
// was told at last of a partition is true.
func TestAssignmentsAndRevokesCross(t *testing.T) {
	for range 200 {
		synctest.Test(t, func(t *testing.T) {
			var confirmed atomic.Int32
			l := newLifecycle(notifierFunc(func(ctx context.Context, n delivery.Notice) delivery.Result {
				if n.Type == delivery.PartitionsAssigned {
					confirmed.Add(int32(len(n.Partitions)))
				} else if confirmed.Add(-int32(len(n.Partitions))) < 0 {
					t.Errorf("%s of what was not assigned: %+v", n.Type, n.Partitions)
				}
				return resultOf(200, 0)
			}), webhooks.Default().Retry, slog.New(slog.DiscardHandler))
			for generation := range int32(10) {
				l.assigned(generation, arrive(0))
				l.assigned(generation, arrive(1, 2))
				l.given(generation, names(0, 1), generation%2 == 0, time.Now().Add(time.Second))
				l.given(generation, names(2), false, time.Now().Add(time.Second))
			}
			synctest.Wait()
			l.close()
			if n := confirmed.Load(); n != 0 {
				t.Errorf("the receiver believes in %d partitions, all have gone", n)
			}
		})
	}
}

type notifierFunc func(context.Context, delivery.Notice) delivery.Result

func (f notifierFunc) Notify(ctx context.Context, _ string, n delivery.Notice) delivery.Result {
	return f(ctx, n)
}

// A webhook that was deleted is not called any more, also at its lifecycle URL.
func TestNothingIsToldOfADeletedWebhookAfterItsDeletion(t *testing.T) {
	hush := func(t *testing.T, l *lifecycle) (hushed <-chan time.Duration) {
		done := make(chan time.Duration, 1)
		began := time.Now()
		go func() {
			l.hush(t.Context())
			done <- time.Since(began)
		}()
		synctest.Wait()
		return done
	}
	t.Run("an assigned call is not tried again", func(t *testing.T) {
		calling(t, func(t *testing.T, l *lifecycle, receiver *callee) {
			l.assigned(42, arrive(0, 1))
			c := receiver.next(t, delivery.PartitionsAssigned, 42, 0, 1)
			hushed := hush(t, l)
			c.reply(500)
			receiver.silent(t)
			l.assigned(43, arrive(2))
			receiver.silent(t)
			<-hushed
		})
	})
	t.Run("the revoke that comes soon is waited for", func(t *testing.T) {
		calling(t, func(t *testing.T, l *lifecycle, receiver *callee) {
			l.assigned(42, arrive(0))
			receiver.next(t, delivery.PartitionsAssigned, 42, 0).reply(200)
			synctest.Wait()
			hushed := hush(t, l)
			time.Sleep(time.Second)
			go func() {
				l.given(42, names(0), false, time.Now().Add(lifecyclePatience))
				l.close()
			}()
			c := receiver.next(t, delivery.PartitionsRevoked, 42, 0)
			time.Sleep(time.Second)
			c.reply(200)
			if took := <-hushed; took != 2*time.Second {
				t.Errorf("it waited %v, want until the call was answered", took)
			}
		})
	})
	t.Run("one that comes later is dropped", func(t *testing.T) {
		calling(t, func(t *testing.T, l *lifecycle, receiver *callee) {
			l.assigned(42, arrive(0))
			receiver.next(t, delivery.PartitionsAssigned, 42, 0).reply(200)
			synctest.Wait()
			if took := <-hush(t, l); took != hushPatience {
				t.Errorf("it waited %v, want %v", took, hushPatience)
			}
			l.given(42, names(0), false, time.Now().Add(lifecyclePatience))
			receiver.silent(t)
		})
	})
	t.Run("without a lifecycle there is nothing to wait for", func(t *testing.T) {
		(*lifecycle)(nil).hush(t.Context())
	})
}
