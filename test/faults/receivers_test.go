package faults

import (
	"fmt"
	"net/http"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kpush/kpush/internal/gatewaytest"
)

// TestH14_SlowReceiver has a topic that is much faster than its receiver: what is
// fetched ahead stays within its budget, and nobody is thrown out of the group,
// though a delivery takes a good part of max.poll.interval.ms.
func TestH14_SlowReceiver(t *testing.T) {
	const slow = 2 * time.Second
	node, _ := nodeOf(t)
	f := newField(t, node.Brokers(), partitions, taking(slow))
	f.known.Clean = true
	f.run(t, nil)
	calm := f.generation(t)
	for range 3 {
		pass(t, 5*time.Second)
		f.checkMemory(t)
	}
	f.checkCalm(t, calm)
	f.receiver.SetScript(lively)
	f.finish(t)
	f.checkCalm(t, calm)
}

const (
	crowdSize   = 100
	crowdTopics = 10 // each read by ten webhooks
	crowdTime   = 50 * time.Millisecond
	crowdPause  = 50 * time.Millisecond // between two records, to one topic after the other
	crowdRounds = 8                     // at most
	crowdSample = 80                    // records of one measurement
	maxSlower   = 1.2                   // the others' p99 with a sick one, as a multiple of the one without
)

// crowd is a hundred webhooks on three gateways; the first has the receiver that falls sick.
type crowd struct {
	*field
	ids     []string
	ledgers []*gatewaytest.Produced // by topic
}

func (c *crowd) topicOf(webhook int) string {
	return fmt.Sprintf("%s-%d", c.topic, webhook%crowdTopics)
}

func TestH15_OneSickOfAHundred(t *testing.T) {
	sicknesses := []struct {
		name   string
		answer gatewaytest.Answer
	}{
		{"it fails", gatewaytest.Answer{Status: http.StatusInternalServerError}},
		{"it hangs", gatewaytest.Answer{Hang: true}},
		{"it is slow", gatewaytest.Answer{Delay: 2 * time.Second}},
	}
	var sickness atomic.Pointer[gatewaytest.Answer]
	node, _ := nodeOf(t)
	c := &crowd{}
	c.field = newField(t, node.Brokers(), 0, func(d *gatewaytest.Delivery) gatewaytest.Answer {
		if sick := sickness.Load(); sick != nil && d.Webhook == c.ids[0] {
			return *sick
		}
		return gatewaytest.Answer{Delay: crowdTime}
	})
	c.start(t, names...)
	c.registerAll(t)
	c.sample(t, 0) // all groups have formed
	for _, s := range sicknesses {
		t.Run(s.name, func(t *testing.T) {
			// The best of the rounds: a neighbour on the machine only ever adds, and a
			// sick webhook that slowed the others would do so in each of them. On a busy
			// machine it takes more of them to see that.
			const never = time.Hour
			base, got := never, never
			for n := 0; n < crowdRounds && (n < 2 || float64(got) > maxSlower*float64(base)); n++ {
				base = min(base, c.sample(t, 1))
				sickness.Store(&s.answer)
				got = min(got, c.sample(t, 1))
				sickness.Store(nil)
				c.awaitAll(t, 0)
			}
			t.Logf("p99 of the healthy: %v without the sick one, %v with it: %.2f times", base, got, float64(got)/float64(base))
			if float64(got) > maxSlower*float64(base) {
				t.Errorf("p99 of the others is %v beside a sick receiver, want at most %v × %v", got, maxSlower, base)
			}
		})
	}
	c.auditAll(t)
}

// registerAll makes the topics and the webhooks.
func (c *crowd) registerAll(t *testing.T) {
	t.Helper()
	for n := range crowdTopics {
		c.kafka.CreateTopic(t, c.topicOf(n), 1)
		c.ledgers = append(c.ledgers, new(gatewaytest.Produced))
	}
	for n := range crowdSize {
		id := fmt.Sprintf("%s-%02d", c.id, n)
		c.ids = append(c.ids, id)
		c.api().Register(t, id, object{
			"url": c.receiver.URL(id), "topics": []string{c.topicOf(n)}, "start": "earliest",
			"request": object{"timeout_ms": 5_000}, "retry": object{"initial_backoff_ms": 100, "max_backoff_ms": 500},
		})
	}
}

// sample produces for a while and returns the p99 of the way from the producer to
// the receivers' answers, of all webhooks from number first on.
func (c *crowd) sample(t *testing.T, first int) time.Duration {
	t.Helper()
	start := time.Now()
	tick := time.NewTicker(crowdPause)
	defer tick.Stop()
	for n := range crowdSample {
		c.kafka.ProduceLoad(t, c.ledgers[n%crowdTopics], gatewaytest.Load{Topic: c.topicOf(n), Partitions: 1, Records: 1, Size: 100})
		<-tick.C
	}
	c.awaitAll(t, first)
	var ways []time.Duration
	for _, id := range c.ids[max(1, first):] {
		for _, d := range c.receiver.Deliveries(id) {
			if d.Arrived.After(start) {
				for _, r := range d.Records {
					ways = append(ways, d.Answered.Sub(time.UnixMilli(r.Timestamp)))
				}
			}
		}
	}
	slices.Sort(ways)
	return ways[len(ways)*99/100]
}

// awaitAll waits until every record has arrived at every webhook of its topic, and
// the sample's last ones are answered.
func (c *crowd) awaitAll(t *testing.T, first int) {
	t.Helper()
	gatewaytest.Await(t, later, func() error {
		for n := first; n < len(c.ids); n++ {
			if got, want := c.receiver.Distinct(c.ids[n]), c.ledgers[n%crowdTopics].Len(); got < want {
				return fmt.Errorf("%d of %d records arrived at %s; complaints %v", got, want, c.ids[n], c.receiver.Complaints())
			}
			deliveries := c.receiver.Deliveries(c.ids[n])
			if first > 0 && deliveries[len(deliveries)-1].Answered.IsZero() {
				return fmt.Errorf("the last delivery to %s is not answered yet", c.ids[n])
			}
		}
		return nil
	})
}

// auditAll looks at all webhooks, with what the broker keeps of groups read once.
func (c *crowd) auditAll(t *testing.T) {
	t.Helper()
	base := c.topic
	for n, id := range c.ids {
		c.id, c.topic, c.group = id, fmt.Sprintf("%s-%d", base, n%crowdTopics), "kpush.default."+id
		c.awaitEnd(t)
	}
	histories := c.kafka.Histories(t)
	for n, id := range c.ids {
		group, topic := "kpush.default."+id, fmt.Sprintf("%s-%d", base, n%crowdTopics)
		report := gatewaytest.Audit(gatewaytest.Evidence{
			Webhook: id, Produced: c.ledgers[n%crowdTopics], Deliveries: c.receiver.Deliveries(id), Acks: c.receiver.Acks(id),
			Complaints: c.receiver.Complaints(), Committed: c.kafka.Committed(t, group), Commits: histories[group].Commits,
			Generations: histories[group].Generations, Ends: c.kafka.Ends(t, topic), Clean: true,
		})
		if len(report.Anomalies) > 0 {
			t.Errorf("webhook %s: %v, want no anomaly", id, report.Anomalies)
		}
	}
}
