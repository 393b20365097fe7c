package groupmanager

import (
	"context"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kpush/kpush/acker"
	"github.com/kpush/kpush/groupmanager/pacing"
	"github.com/kpush/kpush/webhooks"
	"github.com/kpush/kpush/webhooks/delivery"
)

func TestWhatTellsOfTheReceiversHealth(t *testing.T) {
	for _, test := range []struct {
		claim  string
		result delivery.Result
		want   pacing.Outcome
	}{
		{"an ack", delivery.Result{Verdict: delivery.Acked, Status: 200}, pacing.Healthy},
		{"a promise of one", delivery.Result{Verdict: delivery.Received, Status: 202}, pacing.Healthy},
		{"a nack", delivery.Result{Verdict: delivery.Stated, Status: 200, Ack: &delivery.Ack{Outcome: "nack"}}, pacing.Healthy},
		{"400", delivery.Result{Status: 400, Code: "http_400"}, pacing.Healthy},
		{"404", delivery.Result{Status: 404, Code: "http_404"}, pacing.Healthy},
		{"410", delivery.Result{Verdict: delivery.Gone, Status: 410, Code: "http_410"}, pacing.Healthy},
		{"413", delivery.Result{Verdict: delivery.TooLarge, Status: 413, Code: "http_413"}, pacing.Healthy},
		{"422", delivery.Result{Status: 422, Code: "http_422"}, pacing.Healthy},
		{"a redirect", delivery.Result{Status: 302, Code: delivery.CodeRedirect}, pacing.Healthy},
		{"500", delivery.Result{Status: 500, Code: "http_500"}, pacing.Sick},
		{"502", delivery.Result{Status: 502, Code: "http_502"}, pacing.Sick},
		{"503", delivery.Result{Status: 503, Code: "http_503"}, pacing.Overloaded},
		{"429", delivery.Result{Status: 429, Code: "http_429"}, pacing.Overloaded},
		{"a timeout", delivery.Result{Code: delivery.CodeTimeout}, pacing.Overloaded},
		{"nobody listens", delivery.Result{Code: delivery.CodeConnectRefused}, pacing.Sick},
		{"no name", delivery.Result{Code: delivery.CodeDNS}, pacing.Sick},
		{"no certificate", delivery.Result{Code: delivery.CodeTLS}, pacing.Sick},
		{"a cut connection", delivery.Result{Code: delivery.CodeConnectionReset}, pacing.Sick},
		{"half an answer", delivery.Result{Status: 200, Code: delivery.CodeTruncated}, pacing.Sick},
		{"cut by us", delivery.Result{Code: delivery.CodeCanceled}, pacing.Unknown},
		{"not allowed", delivery.Result{Code: delivery.CodeAddressDenied}, pacing.Unknown},
		{"no access token", delivery.Result{Code: delivery.CodeTokenFailed}, pacing.Sick},
		{"credentials not taken", delivery.Result{Code: delivery.CodeTokenRefused}, pacing.Unknown},
		{"a panic of ours", delivery.Result{Code: codeInternal}, pacing.Unknown},
	} {
		if got := healthOf(test.result).Outcome; got != test.want {
			t.Errorf("%s tells %d, want %d", test.claim, got, test.want)
		}
	}
}

// share has rigs share the pacer of the first, as partitions of a webhook do.
func sharePacer(rigs ...*rig) *pacing.Pacer {
	p := rigs[0].lane.pacer
	for _, r := range rigs[1:] {
		r.lane.pace.line.Close(time.Now())
		r.lane.pacer, r.lane.pace.line = p, p.Line(r.nudge)
	}
	return p
}

func TestAPartitionShowsThatItsWebhookIsHeldBack(t *testing.T) {
	bubble(t, func(t *testing.T) {
		sick, other := newRig(t, refused), newRig(t, refused)
		p := sharePacer(sick, other)
		sick.queue.put(0)
		other.queue.put(0)
		sick.start(t)
		other.start(t)
		time.Sleep(20 * time.Second)
		if got := degradation(p); got != "circuit_open" {
			t.Fatalf("degraded by %q, want circuit_open", got)
		}
		before := len(sick.receiver.seen()) + len(other.receiver.seen())
		next := time.Time{}
		for _, r := range []*rig{sick, other} {
			s, _ := r.inspect(t.Context())
			if s.State != PartitionBackingOff || s.NextAttemptAt == nil || s.LastError == nil {
				t.Fatalf("status %+v, want backing_off with its error and the next probe", s)
			}
			if !next.IsZero() && !s.NextAttemptAt.Equal(next) {
				t.Errorf("next attempts at %v and %v, want both at the probe", s.NextAttemptAt, next)
			}
			next = *s.NextAttemptAt
		}
		time.Sleep(time.Until(next) - time.Nanosecond)
		synctest.Wait()
		if got := len(sick.receiver.seen()) + len(other.receiver.seen()); got != before {
			t.Errorf("%d attempts before the next was due, want %d", got, before)
		}
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		if got := len(sick.receiver.seen()) + len(other.receiver.seen()); got != before+1 {
			t.Errorf("%d attempts when the next was due, want %d", got, before+1)
		}
	})
}

// A probe comes sooner than the backoff says, and is not counted in max_attempts: a
// receiver that is down uses no delivery's attempts up faster than it did without.
func TestProbesUseNoAttemptsUp(t *testing.T) {
	for _, test := range []struct {
		claim string
		limit func(*webhooks.Retry)
		least time.Duration // until it may be exhausted
	}{
		// The shortest that ten backoffs of a minute come to, by their jitter, is not nought.
		{"max_attempts", func(r *webhooks.Retry) { r.MaxAttempts, r.InitialBackoffMs = 10, 60_000 }, time.Minute},
		{"max_age_ms", func(r *webhooks.Retry) { r.MaxAgeMs = 300_000 }, 5 * time.Minute},
	} {
		t.Run(test.claim, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				r := newRig(t, refused, func(w *webhooks.Webhook) {
					w.OnExhausted = webhooks.OnExhaustedSkip
					test.limit(&w.Retry)
				})
				r.queue.put(0)
				r.start(t)
				began := time.Now()
				for r.tenure.safe.Load() < 1 && time.Since(began) < time.Hour {
					time.Sleep(time.Second)
				}
				took := time.Since(began)
				t.Logf("skipped after %v and %d attempts", took, len(r.receiver.seen()))
				if took < test.least || took >= time.Hour {
					t.Errorf("skipped after %v, want no sooner than %v, and some time", took, test.least)
				}
			})
		})
	}
}

// Twenty partitions of a receiver that is down share one probe: what most of them wait
// is no age of their deliveries.
func TestWhatAnOpenCircuitHoldsDoesNotAge(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var healed atomic.Bool
		var rigs []*rig
		for range 20 {
			first := true
			r := newRig(t, func(ctx context.Context, q request) delivery.Result {
				if !healed.Load() {
					return refused(ctx, q)
				}
				if first { // once more, so that its age is looked at
					first = false
					return delivery.Result{Status: 400, Code: "http_400"}
				}
				return acked(ctx, q)
			}, func(w *webhooks.Webhook) {
				w.OnExhausted, w.Batch.MaxRecords = webhooks.OnExhaustedSkip, 1
				w.Retry.MaxAgeMs, w.Retry.InitialBackoffMs, w.Retry.MaxBackoffMs = 120_000, 10_000, 10_000
			})
			r.queue.put(0)
			rigs = append(rigs, r)
		}
		sharePacer(rigs...)
		for _, r := range rigs {
			r.start(t)
		}
		time.Sleep(100 * time.Second) // ten probes; each delivery's own time is some seconds
		attempts := 0
		for _, r := range rigs {
			attempts += len(r.receiver.seen())
		}
		time.Sleep(100 * time.Second)
		skipped := 0
		for _, r := range rigs {
			if r.tenure.safe.Load() == 1 {
				skipped++
			}
		}
		t.Logf("%d attempts in 100 s of twenty partitions, %d skipped after 200 s", attempts, skipped)
		if skipped > 0 {
			t.Errorf("%d deliveries were skipped by their age, though hardly an attempt was let out", skipped)
		}
		healed.Store(true)
		time.Sleep(time.Minute)
		for _, r := range rigs {
			if got := len(r.receiver.seen()); r.tenure.safe.Load() != 1 || r.receiver.seen()[got-1].Number != got {
				t.Errorf("safe offset %d after %d attempts, want it delivered", r.tenure.safe.Load(), got)
			}
		}
	})
}

func TestAPausedOrRevokedPartitionHoldsNobodyUp(t *testing.T) {
	for _, test := range []struct {
		claim string
		stop  func(*rig)
	}{
		{"paused", func(r *rig) { r.paused.Store(true); r.nudge() }},
		{"revoked", func(r *rig) { r.revoke(context.Canceled) }},
		{"lost", func(r *rig) { r.revoke(errLost) }},
	} {
		t.Run(test.claim, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				var healed atomic.Bool
				answer := func(ctx context.Context, q request) delivery.Result {
					if !healed.Load() {
						return refused(ctx, q)
					}
					return acked(ctx, q)
				}
				a, b := newRig(t, answer), newRig(t, answer)
				sharePacer(a, b)
				a.queue.put(0)
				b.queue.put(0)
				a.start(t)
				b.start(t)
				time.Sleep(30 * time.Second)
				synctest.Wait()
				first, other := a, b // who is first in the queue
				if until, _ := a.lane.pace.line.Waits(); until.IsZero() {
					first, other = b, a
				}
				healed.Store(true)
				test.stop(first)
				time.Sleep(10 * time.Second)
				other.wantSafe(t, 1)
			})
		})
	}
}

// One bad record among the partitions of a webhook: the others go on as ever.
func TestOneBadRecordHoldsNoOtherUp(t *testing.T) {
	bubble(t, func(t *testing.T) {
		bad := newRig(t, refused)
		good := newRig(t, acked)
		p := sharePacer(bad, good)
		bad.queue.put(0)
		bad.start(t)
		good.start(t)
		for n := range int64(20) {
			time.Sleep(time.Minute)
			good.queue.put(n)
			good.wantSafe(t, n+1)
		}
		t.Logf("%d attempts of the bad record in 20 minutes, state %s, opened %d times", len(bad.receiver.seen()), p.State(), bad.lane.pace.line.Opens())
	})
}

func TestADegradedWebhookIsShownUnlessItFails(t *testing.T) {
	n := newNetwork("a", "a", "b", "c")
	tells := func(peer, reason string) {
		register(n.seats[peer], operationFailures, func(context.Context, struct{}) (failures, error) {
			return failures{"default": {"billing": reason}}, nil
		})
	}
	for _, test := range []struct {
		b, c  string
		state webhooks.State
		want  string
	}{
		{"", "circuit_half_open", webhooks.Degraded, "circuit_half_open"},
		{"circuit_open", "circuit_half_open", webhooks.Degraded, "circuit_open"},
		{"circuit_open", "topic_not_found", webhooks.Failed, "topic_not_found"},
		{"topic_not_found", "circuit_open", webhooks.Failed, "topic_not_found"},
	} {
		tells("b", test.b)
		tells("c", test.c)
		m := &Manager{peers: n.seats["a"], shared: &shared{logger: slog.New(slog.DiscardHandler)}}
		active := webhooks.Entry{Webhook: webhooks.Webhook{ID: "billing", Tenant: "default", State: webhooks.Active}}
		got := m.withFailures([]webhooks.Entry{active})[0].Webhook
		if got.State != test.state || got.StateReason == nil || *got.StateReason != test.want {
			t.Errorf("with %q and %q elsewhere it is %s for %v, want %s for %s", test.b, test.c, got.State, got.StateReason, test.state, test.want)
		}
	}
}

// What is left of a delivery that was cut, or acked in part, has as many attempts before
// it as the whole had: the probes of an outage are not among those that count.
func TestProbesUseNoAttemptsUpOfWhatIsCutLater(t *testing.T) {
	for _, test := range []struct {
		claim string
		whole delivery.Result // the first answer after the outage
	}{
		{"too large", delivery.Result{Verdict: delivery.TooLarge, Status: 413, Code: "http_413"}},
		{"searched for the bad record", delivery.Result{Status: 400, Code: "http_400"}},
		{"acked in part", delivery.Result{Verdict: delivery.Stated, Status: 200, Ack: &delivery.Ack{
			Outcome: "partial", Failures: []delivery.AckFailure{{Offset: 0, Action: "skip"}, {Offset: 1, Action: "retry"}, {Offset: 3, Action: "retry"}},
		}}},
	} {
		t.Run(test.claim, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				const outage = time.Hour
				began := time.Now()
				failed := make(map[int64]bool)
				r := newRig(t, func(ctx context.Context, q request) delivery.Result {
					switch {
					case time.Since(began) < outage:
						return delivery.Result{Code: delivery.CodeConnectRefused}
					case q.first == 0 && q.last == 3:
						return test.whole
					case !failed[q.first]:
						failed[q.first] = true
						return delivery.Result{Code: delivery.CodeConnectRefused}
					}
					return acked(ctx, q)
				}, withLetters(webhooks.OnExhaustedDeadLetter), func(w *webhooks.Webhook) {
					w.Batch.MaxRecords, w.Retry.MaxAttempts = 4, 20
					w.Retry.InitialBackoffMs, w.Retry.Multiplier, w.Retry.MaxBackoffMs = 100, 10, 3_600_000
				})
				dead := &keep{}
				r.lane.senders.dead = dead
				r.queue.put(0, 1, 2, 3)
				r.start(t)
				time.Sleep(outage - time.Nanosecond)
				synctest.Wait()
				if n := len(r.receiver.seen()); n < 50 {
					t.Fatalf("%d attempts in the outage, want more than max_attempts", n)
				}
				time.Sleep(24 * time.Hour)
				r.wantSafe(t, 4)
				if len(dead.offsets) > 0 {
					t.Errorf("%v was given up, want nothing given up for what the outage has cost", dead.offsets)
				}
			})
		})
	}
}

// A nack counts as a failed attempt, even if the attempt is a probe and its own response
// is still to come.
func TestANackOfAProbeUnderWayCounts(t *testing.T) {
	bubble(t, func(t *testing.T) {
		began := time.Now()
		r := newRig(t, func(ctx context.Context, q request) delivery.Result {
			if time.Since(began) < time.Hour {
				return delivery.Result{Code: delivery.CodeConnectRefused}
			}
			return hung(ctx, q)
		}, func(w *webhooks.Webhook) {
			w.Retry.InitialBackoffMs, w.Retry.Multiplier, w.Retry.MaxBackoffMs = 100, 10, 3_600_000
		})
		r.queue.put(0)
		r.start(t)
		time.Sleep(time.Hour + time.Minute)
		synctest.Wait()
		o := r.lane.open[0]
		if !o.inFlight || !o.paced.isEarly {
			t.Skip("by its jitter the backoff was over before the probe")
		}
		before := o.failures()
		if back := r.tell(t, ask{statement: acker.Statement{Outcome: acker.Nack, First: 0, Last: 0}}); back.err != nil {
			t.Fatal(back.err)
		}
		synctest.Wait()
		if got := o.failures(); got != before+1 || !o.due.After(time.Now()) {
			t.Errorf("%d failed attempts and the next at %v, want %d and a backoff", got, o.due, before+1)
		}
	})
}

// A partition that was first in the queue, and whose delivery was let past the circuit,
// does not keep the probe from the others for as long as its receiver is silent.
func TestWhoWasLetPastTheCircuitHoldsNobodyUp(t *testing.T) {
	bubble(t, func(t *testing.T) {
		bad := newRig(t, func(context.Context, request) delivery.Result {
			return delivery.Result{Status: 503, Code: "http_503", RetryAfter: 5 * time.Second}
		})
		silent := newRig(t, hung)
		p := sharePacer(bad, silent)
		bad.queue.put(0)
		bad.start(t)
		silent.start(t)
		for p.State() != pacing.Open {
			time.Sleep(time.Millisecond)
		}
		silent.queue.put(0)
		time.Sleep(time.Minute)
		synctest.Wait()
		if n := len(silent.receiver.seen()); n != 1 {
			t.Fatalf("%d requests of the other partition, want one past the circuit", n)
		}
		before := len(bad.receiver.seen())
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if got := len(bad.receiver.seen()); got == before {
			t.Error("no probe while the other partition's request is under way")
		}
	})
}
