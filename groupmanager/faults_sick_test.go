package groupmanager

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/kpush/kpush/groupmanager/pacing"
	"github.com/kpush/kpush/webhooks"
	"github.com/kpush/kpush/webhooks/delivery"
)

// sickness is a webhook whose partitions have records without end, and whose receiver
// falls ill: a simulation in a bubble's time, which it takes notes of.
type sickness struct {
	pacer *pacing.Pacer
	rigs  []*rig

	mu       sync.Mutex
	began    time.Time
	attempts []moment
}

// moment is one attempt that has ended.
type moment struct {
	at    time.Duration // since the beginning
	first bool          // attempt of its delivery
	probe bool          // the circuit was not closed
	acked bool
}

// fallIll runs partitions of a webhook against a receiver. Each delivery is one record.
func fallIll(t *testing.T, partitions int, answer func(after time.Duration) delivery.Result, change ...func(*webhooks.Webhook)) *sickness {
	t.Helper()
	s := &sickness{began: time.Now()}
	for n := range partitions {
		r := newRig(t, func(_ context.Context, q request) delivery.Result {
			probe := s.pacer.State() != pacing.Closed
			res := answer(time.Since(s.began))
			s.mu.Lock()
			defer s.mu.Unlock()
			s.attempts = append(s.attempts, moment{time.Since(s.began), q.Number == 1, probe, res.Verdict == delivery.Acked})
			return res
		}, append([]func(*webhooks.Webhook){func(w *webhooks.Webhook) { w.Batch.MaxRecords = 1 }}, change...)...)
		if n == 0 {
			s.pacer = r.lane.pacer
		}
		r.lane.pace.line.Close(time.Now())
		r.lane.pace.line = s.pacer.Line(r.nudge)
		r.fetch.source = &spring{value: []byte("value"), wake: make(chan struct{})}
		s.rigs = append(s.rigs, r)
	}
	for _, r := range s.rigs {
		r.start(t)
	}
	return s
}

// end stops all partitions at once: stopped one after the other they would go on
// for as long as that takes.
func (s *sickness) end() {
	for _, r := range s.rigs {
		r.revoke(errLost)
	}
}

// count counts attempts that ended in a time and are so.
func (s *sickness) count(from, to time.Duration, is func(moment) bool) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, m := range s.attempts {
		if m.at >= from && m.at < to && is(m) {
			n++
		}
	}
	return n
}

// rate is how many deliveries are acked in a second.
func (s *sickness) rate(from, to time.Duration) float64 {
	return float64(s.count(from, to, func(m moment) bool { return m.acked })) / (to - from).Seconds()
}

// wantBudget fails if there were more attempts than the retry budget lets go.
func (s *sickness) wantBudget(t *testing.T, from, to time.Duration) {
	t.Helper()
	all := s.count(from, to, func(moment) bool { return true })
	first := s.count(from, to, func(m moment) bool { return m.first })
	probes := s.count(from, to, func(m moment) bool { return m.probe })
	acked := s.count(from, to, func(m moment) bool { return m.acked })
	most := 3*first + probes + 20 + 5*probes // twenty to begin with, five for each time the circuit has closed
	t.Logf("%d attempts, %d first attempts, %d probes, %d acked: %.2f attempts a delivery; the budget lets %d go",
		all, first, probes, acked, float64(all)/float64(max(acked, 1)), most)
	if all > most {
		t.Errorf("%d attempts, want at most %d", all, most)
	}
}

func TestH1_AReceiverFailsAndHeals(t *testing.T) {
	const before, after = 20 * time.Second, 60 * time.Second
	failures := map[string]delivery.Result{
		"500":     {Verdict: delivery.Failed, Status: 500, Code: "http_500"},
		"503":     {Verdict: delivery.Failed, Status: 503, Code: "http_503"},
		"refused": {Verdict: delivery.Failed, Code: delivery.CodeConnectRefused},
	}
	lanes := []struct {
		name       string
		partitions int
		change     func(*webhooks.Webhook)
	}{
		{"6 partitions", 6, func(*webhooks.Webhook) {}},
		{"1 partition", 1, func(*webhooks.Webhook) {}},
		{"4 partitions of 8 at once", 4, func(w *webhooks.Webhook) { w.Ordering, w.MaxInFlight = webhooks.OrderingNone, 8 }},
	}
	for name, failure := range failures {
		for _, down := range []time.Duration{30 * time.Second, time.Minute, 10 * time.Minute} {
			for _, l := range lanes {
				t.Run(fmt.Sprintf("%s for %v, %s", name, down, l.name), func(t *testing.T) {
					bubble(t, func(t *testing.T) {
						s := fallIll(t, l.partitions, func(at time.Duration) delivery.Result {
							time.Sleep(50 * time.Millisecond)
							if at >= before && at < before+down {
								return failure
							}
							return delivery.Result{Verdict: delivery.Acked, Status: 200}
						}, l.change)
						time.Sleep(before + down + after)
						s.end()
						s.check(t, before, down, after)
					})
				})
			}
		}
	}
}

// check fails if a receiver that was down was not spared, or not served again soon.
func (s *sickness) check(t *testing.T, before, down, after time.Duration) {
	t.Helper()
	former := s.rate(before-10*time.Second, before)
	probes := s.count(before, before+down, func(m moment) bool { return m.probe })
	rest := s.count(before, before+down, func(m moment) bool { return !m.probe && !m.acked })
	slots := 3 + (down.Seconds()-7)/5 // 1, 2 and 4 s, then 5 s each
	if down > time.Minute {
		slots = 3 + 53.0/5 + math.Log(down.Minutes())/math.Log(13.0/12) // then a twelfth of the outage
		slots = min(slots, 3+53.0/5+math.Log(6)/math.Log(13.0/12)+(down.Seconds()-360)/30)
	}
	if got := float64(probes); got > 1.2*slots+1 {
		t.Errorf("%d probes while it was down, want at most 1.2 for each of %.0f slots", probes, slots)
	}
	s.wantBudget(t, before, before+down)
	heals := before + down
	var healed time.Duration
	for healed = 0; healed < after-time.Second && s.rate(heals+healed, heals+healed+time.Second) < 0.9*former; {
		healed += 100 * time.Millisecond
	}
	t.Logf("%.0f deliveries a second before; %d attempts before the circuit opened, %d probes in %.1f slots; nine tenths of the former rate %v after it healed",
		former, rest, probes, slots, healed)
	if most := 10 * time.Second; down <= time.Minute && healed > most {
		t.Errorf("at nine tenths of the former rate after %v, want within %v", healed, most)
	}
	if most := 60 * time.Second; healed > most-2*time.Second { // twice retry.max_backoff_ms is what H1 asks for
		t.Errorf("at nine tenths of the former rate after %v, want within %v", healed, most)
	}
}

func TestH16_BimodalLatency(t *testing.T) {
	bubble(t, func(t *testing.T) {
		const partitions, inFlight, share = 4, 8, 0.2
		const began, ends = time.Minute, 11 * time.Minute
		rnd := rand.New(rand.NewPCG(1, 2))
		var mu sync.Mutex
		flying, most := 0, 0
		s := fallIll(t, partitions, func(time.Duration) delivery.Result {
			mu.Lock()
			took := 5 * time.Millisecond
			if rnd.Float64() < share {
				took = 5 * time.Second
			}
			flying++
			most = max(most, flying)
			mu.Unlock()
			time.Sleep(took)
			mu.Lock()
			flying--
			mu.Unlock()
			return delivery.Result{Verdict: delivery.Acked, Status: 200}
		}, func(w *webhooks.Webhook) { w.Ordering, w.MaxInFlight = webhooks.OrderingNone, inFlight })
		time.Sleep(ends)
		s.end()
		mu.Lock()
		defer mu.Unlock()
		ideal := partitions * inFlight / (share*5 + (1-share)*0.005)
		got := s.rate(began, ends)
		t.Logf("%.1f deliveries a second of %.1f, %.0f %%; at most %d of %d at once", got, ideal, 100*got/ideal, most, partitions*inFlight)
		if got < 0.8*ideal {
			t.Errorf("%.1f deliveries a second, want 80 %% of %.1f", got, ideal)
		}
		if most > partitions*inFlight {
			t.Errorf("%d at once, want at most %d", most, partitions*inFlight)
		}
	})
}

func TestH17_Flapping(t *testing.T) {
	for _, test := range []struct {
		fails float64
		least float64 // acked of the attempts
	}{{0.5, 0.45}, {0.7, 0}, {0.9, 0}} {
		for _, ordering := range []string{webhooks.OrderingPartition, webhooks.OrderingNone} {
			t.Run(fmt.Sprintf("%.0f %% fail, ordering %s", 100*test.fails, ordering), func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					const ends = 10 * time.Minute
					rnd := rand.New(rand.NewPCG(3, 4))
					var mu sync.Mutex
					s := fallIll(t, 6, func(time.Duration) delivery.Result {
						time.Sleep(5 * time.Millisecond)
						mu.Lock()
						defer mu.Unlock()
						if rnd.Float64() < test.fails {
							return delivery.Result{Verdict: delivery.Failed, Status: 500, Code: "http_500"}
						}
						return delivery.Result{Verdict: delivery.Acked, Status: 200}
					}, func(w *webhooks.Webhook) {
						if w.Ordering = ordering; ordering == webhooks.OrderingNone {
							w.MaxInFlight = 8
						}
					})
					time.Sleep(ends)
					s.end()
					s.wantBudget(t, 0, ends)
					all := s.count(0, ends, func(moment) bool { return true })
					got := s.rate(0, ends) * ends.Seconds() / float64(all)
					t.Logf("goodput %.1f %%, %.1f deliveries a second, the circuit opened %d times", 100*got, s.rate(0, ends), s.rigs[0].lane.pace.line.Opens())
					if got < test.least {
						t.Errorf("%.1f %% of the attempts were acked, want %.0f %%", 100*got, 100*test.least)
					}
				})
			})
		}
	}
}

func TestH18_MassRecovery(t *testing.T) {
	bubble(t, func(t *testing.T) {
		const crowd, down, wide = 1000, time.Minute, 500 * time.Millisecond
		const fails, heals, ends = 20 * time.Second, 20*time.Second + down, 50*time.Second + down
		var all []*sickness
		for range crowd {
			all = append(all, fallIll(t, 1, func(at time.Duration) delivery.Result {
				if at >= fails && at < heals {
					return delivery.Result{Verdict: delivery.Failed, Code: delivery.CodeConnectRefused}
				}
				time.Sleep(2*time.Second + rand.N(4*time.Second))
				return delivery.Result{Verdict: delivery.Acked, Status: 200}
			}, func(w *webhooks.Webhook) { w.Ordering, w.MaxInFlight = webhooks.OrderingNone, 4 }))
		}
		time.Sleep(ends)
		for _, s := range all {
			s.end()
		}
		buckets := make([]int, (ends-heals)/wide)
		sum, before := 0, 0.0
		for _, s := range all {
			before += s.rate(fails/2, fails)
			for _, r := range s.rigs {
				for _, q := range r.receiver.seen() {
					if at := q.Now.Sub(s.began); at >= heals && at < ends {
						buckets[int((at-heals)/wide)]++
						sum++
					}
				}
			}
		}
		mean := float64(sum) / float64(len(buckets))
		peak := float64(slices.Max(buckets))
		t.Logf("%.0f POSTs a second before; after they healed %v in each %v: peak %.0f, mean %.0f, %.2f times", before, buckets, wide, peak, mean, peak/mean)
		if peak > 3*mean {
			t.Errorf("peak %.0f, mean %.0f: want at most three times", peak, mean)
		}
	})
}
