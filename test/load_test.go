package test

import (
	"context"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kpush/kpush/internal/gatewaytest"
)

// The load of the acceptance: 200,000 records of 1 KB over 8 partitions. It is
// produced once; each test reads it with a group of its own.
const (
	loadTopic      = "load"
	loadRecords    = 200_000
	loadSize       = 1024
	loadPartitions = 8
)

var load struct {
	once     sync.Once
	produced gatewaytest.Produced
}

// newLoad is a scene on the load.
func newLoad(t *testing.T, script gatewaytest.Script) *scene {
	t.Helper()
	s := newScene(t, 0, script)
	load.once.Do(func() {
		s.kafka.CreateTopic(t, loadTopic, loadPartitions)
		s.kafka.ProduceLoad(t, &load.produced, gatewaytest.Load{
			Topic: loadTopic, Partitions: loadPartitions, Records: loadRecords, Size: loadSize,
		})
	})
	if got := load.produced.Len(); got != loadRecords {
		t.Fatalf("the load has %d records, want %d", got, loadRecords)
	}
	s.topic, s.produced = loadTopic, &load.produced
	return s
}

func TestLoadArrivesExactlyAndInOrder(t *testing.T) {
	s := newLoad(t, gatewaytest.OK)
	start := time.Now()
	s.register(t, nil)
	s.awaitDistinct(t, loadRecords, later)
	t.Logf("%.0f records/s", loadRecords/time.Since(start).Seconds())
	if report := s.finish(t, soon); report.Repeats != 0 {
		t.Errorf("%d records came again, want none", report.Repeats)
	}
	checkLag(t, s.group, loadPartitions)
	if got := s.receiver.Connections(); got > 2*loadPartitions {
		t.Errorf("%d connections for %d partitions, want them reused", got, loadPartitions)
	}
	code, _ := s.gateway.Terminate(t)
	if code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
}

func TestLoadWithEveryThirdBatchAckedLater(t *testing.T) {
	var (
		s     *scene
		count atomic.Int64
		acks  sync.WaitGroup
	)
	s = newLoad(t, func(d *gatewaytest.Delivery) gatewaytest.Answer {
		n := count.Add(1)
		if n%3 != 0 {
			return gatewaytest.Answer{}
		}
		acks.Go(func() {
			reply, err := ackEitherWay(t.Context(), s, d, n%2 == 0)
			if err != nil || reply.Status != http.StatusOK || reply.Result != "committed" {
				t.Errorf("ack of %s %d..%d: %+v, %v; want 200 committed", d.Partition, d.First(), d.Last(), reply, err)
			}
		})
		return gatewaytest.Answer{Status: http.StatusAccepted}
	})
	s.register(t, nil)
	s.awaitDistinct(t, loadRecords, later)
	s.awaitEnd(t, soon)
	acks.Wait()
	if report := s.finish(t, soon); report.Repeats != 0 {
		t.Errorf("%d records came again, want none", report.Repeats)
	}
	checkLag(t, s.group, loadPartitions)
}

// ackEitherWay acks a whole delivery by its token or by its fields.
func ackEitherWay(ctx context.Context, s *scene, d *gatewaytest.Delivery, byToken bool) (gatewaytest.AckReply, error) {
	if byToken {
		return s.gateway.API.AckDelivery(ctx, s.receiver, d, d.Last(), "")
	}
	ack := gatewaytest.Ack{Webhook: d.Webhook, Partition: d.Partition, First: d.First(), Last: d.Last(), At: time.Now()}
	reply, err := s.gateway.API.Ack(ctx, object{
		"webhook_id": d.Webhook, "topic": d.Partition.Topic, "partition": d.Partition.ID,
		"generation": d.Generation, "offset": d.Last(),
	}, "")
	if err != nil || reply.Status < 300 {
		s.receiver.Acked(ack)
	}
	return reply, err
}

func TestLoadThroughAReceiverThatFailsOneInFive(t *testing.T) {
	const seed = 5
	var (
		mu     sync.Mutex
		random = rand.New(rand.NewPCG(seed, seed))
	)
	failures := []int{http.StatusInternalServerError, http.StatusTooManyRequests, http.StatusBadRequest, http.StatusServiceUnavailable}
	s := newLoad(t, func(*gatewaytest.Delivery) gatewaytest.Answer {
		mu.Lock()
		defer mu.Unlock()
		if random.IntN(5) == 0 {
			return gatewaytest.Answer{Status: failures[random.IntN(len(failures))]}
		}
		return gatewaytest.Answer{}
	})
	s.register(t, object{"retry": object{"initial_backoff_ms": 10, "max_backoff_ms": 100}})
	s.awaitDistinct(t, loadRecords, later)
	report := s.finish(t, soon)
	if report.Repeats == 0 || report.Duplicates != 0 {
		t.Errorf("%d repeats and %d of them after an ack, want some and none", report.Repeats, report.Duplicates)
	}
	checkLag(t, s.group, loadPartitions)
}

// kill is what was known of the webhook's group when its gateway was gone.
type kill struct {
	committed  map[gatewaytest.Partition]int64
	generation int32 // the latest in which something had been delivered
}

func TestLoadThroughKills(t *testing.T) {
	s := newLoad(t, func(*gatewaytest.Delivery) gatewaytest.Answer {
		return gatewaytest.Answer{Delay: 2 * time.Millisecond}
	})
	s.register(t, nil)
	var kills []kill
	for _, arrived := range []int{loadRecords / 4, loadRecords / 2} {
		s.awaitDistinct(t, arrived, later)
		s.gateway.Kill(t)
		k := kill{committed: s.kafka.Committed(t, s.group)}
		for _, d := range s.receiver.Deliveries(s.id) {
			k.generation = max(k.generation, d.Generation)
		}
		kills = append(kills, k)
		s.restart(t)
	}
	s.awaitDistinct(t, loadRecords, later)
	allowed := 0
	for n, k := range kills {
		uncommitted := s.deliveredBeyond(k)
		t.Logf("kill %d: %d records were delivered and not committed", n, uncommitted)
		allowed += uncommitted
	}
	if report := s.finish(t, soon); report.Repeats > allowed {
		t.Errorf("%d records came again, want at most the %d that were delivered and not committed", report.Repeats, allowed)
	}
	checkLag(t, s.group, loadPartitions)
}

// deliveredBeyond counts the different records that the killed gateway, or those
// before it, had delivered and not committed. It is counted at the end: what a
// dead process had written to a socket arrives a moment after its death.
func (s *scene) deliveredBeyond(k kill) int {
	type record struct {
		partition gatewaytest.Partition
		offset    int64
	}
	beyond := map[record]bool{}
	for _, d := range s.receiver.Deliveries(s.id) {
		if d.Generation > k.generation {
			continue
		}
		for _, r := range d.Records {
			if r.Offset >= k.committed[d.Partition] {
				beyond[record{d.Partition, r.Offset}] = true
			}
		}
	}
	return len(beyond)
}

func TestLoadThroughSIGTERM(t *testing.T) {
	s := newLoad(t, func(*gatewaytest.Delivery) gatewaytest.Answer {
		return gatewaytest.Answer{Delay: 5 * time.Millisecond}
	})
	s.register(t, nil)
	for _, arrived := range []int{loadRecords / 4, loadRecords / 2} {
		s.awaitDistinct(t, arrived, later)
		code, took := s.gateway.Terminate(t)
		if code != 0 {
			t.Errorf("exit code %d, want 0", code)
		}
		t.Logf("ended %v after SIGTERM at %d records", took, s.receiver.Distinct(s.id))
		s.restart(t)
	}
	s.awaitDistinct(t, loadRecords, later)
	if report := s.finish(t, soon); report.Repeats != 0 {
		t.Errorf("%d records came again, want none", report.Repeats)
	}
	checkLag(t, s.group, loadPartitions)
}
