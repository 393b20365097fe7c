package test

import (
	"cmp"
	"fmt"
	"net/http"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kpush/kpush/internal/gatewaytest"
)

// TestKeysKeepTheirOrder: with ordering key, no record arrives before the one before it
// with the same key was acked, while the receiver fails now and then, and while the
// partitions go from one gateway to the next, in peace and after a kill.
func TestKeysKeepTheirOrder(t *testing.T) {
	const (
		partitions = 2
		keys       = 40
		perRound   = 400 // records of a partition
		inFlight   = 16
		batch      = 5
	)
	var requests atomic.Int64
	s := newScene(t, partitions, func(*gatewaytest.Delivery) gatewaytest.Answer {
		a := gatewaytest.Answer{Delay: 10 * time.Millisecond}
		if requests.Add(1)%13 == 0 {
			a.Status = http.StatusBadGateway
		}
		return a
	})
	order := map[gatewaytest.Partition]map[int64]int64{} // the offset before with the same key
	last := map[gatewaytest.Partition]map[string]int64{}
	produce := func() {
		for id := range int32(partitions) {
			p := gatewaytest.Partition{Topic: s.topic, ID: id}
			if order[p] == nil {
				order[p], last[p] = map[int64]int64{}, map[string]int64{}
			}
			records := numbered(s.topic, id, perRound)
			for i, r := range records {
				r.Key = fmt.Appendf(nil, "key-%d", i*i%keys)
			}
			s.kafka.Produce(t, s.produced, records...)
			for _, r := range slices.SortedFunc(slices.Values(records), func(a, b *kgo.Record) int { return cmp.Compare(a.Offset, b.Offset) }) {
				if before, ok := last[p][string(r.Key)]; ok {
					order[p][r.Offset] = before
				}
				last[p][string(r.Key)] = r.Offset
			}
		}
	}

	produce()
	s.register(t, object{
		"ordering": "key", "max_in_flight": inFlight, "batch": object{"max_records": batch},
		"retry": object{"initial_backoff_ms": 20, "max_backoff_ms": 100},
	})
	s.awaitDistinct(t, partitions*perRound/2, later)
	if code, took := s.gateway.Terminate(t); code != 0 {
		t.Errorf("exit code %d after %v, want 0", code, took)
	}
	s.restart(t)
	produce()
	s.awaitDistinct(t, partitions*perRound*3/2, later)
	s.gateway.Kill(t)
	s.restart(t)
	s.awaitEnd(t, later)

	e := s.evidence(t)
	e.Ends, e.Unordered = s.kafka.Ends(t, s.topic), true
	report := gatewaytest.Audit(e)
	report.Check(t)
	t.Logf("%d requests for %d records, %d came again", len(e.Deliveries), report.Records, report.Repeats)
	for _, violation := range outOfOrder(e, order) {
		t.Error(violation)
	}
	if most := atOnce(e.Deliveries); most <= partitions {
		t.Errorf("at most %d requests at once, want more than partitions", most)
	}
}

// outOfOrder are the records that came while the one before them was neither acked nor
// before them in the same request.
func outOfOrder(e gatewaytest.Evidence, order map[gatewaytest.Partition]map[int64]int64) (violations []string) {
	type place struct {
		partition gatewaytest.Partition
		offset    int64
	}
	acked := map[place]time.Time{} // first
	for _, a := range e.Acks {
		for offset := a.First; offset <= a.Last; offset++ {
			at := place{a.Partition, offset}
			if first, ok := acked[at]; !ok || a.At.Before(first) {
				acked[at] = a.At
			}
		}
	}
	for _, d := range e.Deliveries {
		here := map[int64]bool{}
		for _, r := range d.Records {
			if before, ok := order[d.Partition][r.Offset]; ok && !here[before] {
				if at, ok := acked[place{d.Partition, before}]; !ok || at.After(d.Arrived) {
					violations = append(violations, fmt.Sprintf("%v: offset %d came and %d of its key was not acked", d.Partition, r.Offset, before))
				}
			}
			here[r.Offset] = true
		}
	}
	return violations
}

// atOnce is the most requests that were under way at one time.
func atOnce(deliveries []gatewaytest.Delivery) (most int) {
	type step struct {
		at   time.Time
		more int
	}
	var steps []step
	for _, d := range deliveries {
		if !d.Answered.IsZero() {
			steps = append(steps, step{d.Arrived, 1}, step{d.Answered, -1})
		}
	}
	slices.SortFunc(steps, func(a, b step) int { return cmp.Or(a.at.Compare(b.at), a.more-b.more) })
	now := 0
	for _, s := range steps {
		now += s.more
		most = max(most, now)
	}
	return most
}
