package test

import (
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kpush/kpush/internal/gatewaytest"
)

const (
	manyWebhooks = 100
	manyTopics   = 10 // each read by ten of them
	startWithin  = 10 * time.Second
	maxSlower    = 1.2 // the others' p99 with a sick one, as a multiple of the one without

	// A receiver that works for a living: its time is part of what is measured.
	receiverTime = 20 * time.Millisecond

	manyPause   = 50 * time.Millisecond // between two records, to one topic after the other
	manyRecords = 120                   // of one measurement
	manyRounds  = 4
)

// crowd is a hundred webhooks on one gateway.
type crowd struct {
	*scene
	ids      []string // the first is the one whose receiver may hang
	topics   []string
	produced []*gatewaytest.Produced // by topic
}

// topicOf is the number of the topic that a webhook reads.
func topicOf(webhook int) int { return webhook % manyTopics }

func TestHundredWebhooks(t *testing.T) {
	var hangs atomic.Bool
	c := &crowd{}
	c.scene = newScene(t, 0, func(d *gatewaytest.Delivery) gatewaytest.Answer {
		if d.Webhook == c.ids[0] && hangs.Load() {
			return gatewaytest.Answer{Hang: true}
		}
		return gatewaytest.Answer{Delay: receiverTime}
	})
	c.register(t)
	if code, took := c.gateway.Terminate(t); code != 0 {
		t.Errorf("exit code %d after %v, want 0", code, took)
	}
	c.produce(t, manyTopics)

	start := time.Now()
	c.restart(t)
	c.awaitAll(t, 0, startWithin)
	if took := time.Since(start); took > startWithin {
		t.Errorf("all %d webhooks deliver %v after the process was started, want it within %v", manyWebhooks, took, startWithin)
	} else {
		t.Logf("all %d webhooks deliver %v after the process was started", manyWebhooks, took)
	}

	var without, with []time.Duration
	for range manyRounds {
		without = append(without, c.measure(t))
		hangs.Store(true)
		with = append(with, c.measure(t))
		hangs.Store(false)
		c.awaitAll(t, 0, later)
	}
	// The best of the rounds: a neighbour on the machine only ever adds, and a sick
	// webhook that slowed the others would do so in each of them.
	t.Logf("p99 of the healthy: %v without the sick one, %v with it", without, with)
	if base, got := slices.Min(without), slices.Min(with); float64(got) > maxSlower*float64(base) {
		t.Errorf("p99 of the others is %v with a receiver that hangs, want at most %v × %v", got, maxSlower, base)
	}
	c.audit(t)
}

// register makes the topics and the webhooks.
func (c *crowd) register(t *testing.T) {
	t.Helper()
	for n := range manyTopics {
		topic := fmt.Sprintf("many-%d", n)
		c.kafka.CreateTopic(t, topic, 1)
		c.topics = append(c.topics, topic)
		c.produced = append(c.produced, new(gatewaytest.Produced))
	}
	for n := range manyWebhooks {
		c.ids = append(c.ids, fmt.Sprintf("many-%02d", n))
	}
	for n, id := range c.ids {
		c.gateway.API.Register(t, id, object{
			"url": c.receiver.URL(id), "topics": []string{c.topics[topicOf(n)]}, "start": "earliest",
			"request": object{"timeout_ms": 10_000}, "retry": object{"initial_backoff_ms": 100, "max_backoff_ms": 500},
		})
	}
}

// produce sends records to one topic after the other.
func (c *crowd) produce(t *testing.T, records int) {
	t.Helper()
	tick := time.NewTicker(manyPause)
	defer tick.Stop()
	for n := range records {
		topic := n % manyTopics
		c.kafka.Produce(t, c.produced[topic], &kgo.Record{Topic: c.topics[topic], Value: fmt.Appendf(nil, `{"number":%d}`, n)})
		<-tick.C
	}
}

// awaitAll waits until every record has arrived at every webhook of its topic,
// from webhook number first on.
func (c *crowd) awaitAll(t *testing.T, first int, patience time.Duration) {
	t.Helper()
	gatewaytest.Await(t, patience, func() error {
		for n := first; n < len(c.ids); n++ {
			id := c.ids[n]
			if got, want := c.receiver.Distinct(id), c.produced[topicOf(n)].Len(); got < want {
				return fmt.Errorf("%d of %d records arrived at %s; complaints %v", got, want, id, c.receiver.Complaints())
			}
		}
		return nil
	})
}

// measure produces for a while and returns the p99 of the way from the producer
// to the receivers' answers, of all webhooks but the first.
func (c *crowd) measure(t *testing.T) time.Duration {
	t.Helper()
	start := time.Now()
	c.produce(t, manyRecords)
	c.awaitAll(t, 1, later)
	var ways []time.Duration
	for _, id := range c.ids[1:] {
		for _, d := range c.receiver.Deliveries(id) {
			if d.Arrived.Before(start) {
				continue
			}
			for _, r := range d.Records {
				ways = append(ways, d.Answered.Sub(time.UnixMilli(r.Timestamp)))
			}
		}
	}
	slices.Sort(ways)
	return ways[len(ways)*99/100]
}

// audit looks at all webhooks, with the commits read once.
func (c *crowd) audit(t *testing.T) {
	t.Helper()
	for n, id := range c.ids {
		c.id, c.group, c.topic, c.scene.produced = id, "kpush.default."+id, c.topics[topicOf(n)], c.produced[topicOf(n)]
		c.awaitEnd(t, soon)
	}
	commits := c.kafka.Commits(t)
	for n, id := range c.ids {
		topic := topicOf(n)
		group := "kpush.default." + id
		report := gatewaytest.Audit(gatewaytest.Evidence{
			Webhook: id, Produced: c.produced[topic], Deliveries: c.receiver.Deliveries(id), Acks: c.receiver.Acks(id),
			Complaints: c.receiver.Complaints(), Committed: c.kafka.Committed(t, group), Commits: commits[group],
			Ends: c.kafka.Ends(t, c.topics[topic]),
		})
		if report.Duplicates > 0 || len(report.Anomalies) > 0 {
			t.Errorf("webhook %s: %d duplicates and %v, want none", id, report.Duplicates, report.Anomalies)
		}
	}
}
