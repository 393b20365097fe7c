package test

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/kpush/kpush/internal/gatewaytest"
)

// Patience with things that take no time when all is well.
const (
	soon  = 15 * time.Second
	later = 90 * time.Second // a whole load, or a group whose member was killed
)

// object is a JSON object.
type object = map[string]any

// scene is what most tests begin with: a broker, a topic, a gateway that is
// ready, and a receiver for one webhook that bears the test's name.
type scene struct {
	kafka    *gatewaytest.Kafka
	config   gatewaytest.Config
	gateway  *gatewaytest.Gateway
	receiver *gatewaytest.Receiver
	produced *gatewaytest.Produced
	topic    string
	id       string
	group    string
}

// newScene makes a topic with some partitions; no partitions: the test brings its own topic.
func newScene(t *testing.T, partitions int32, script gatewaytest.Script) *scene {
	t.Helper()
	brokers := brokersOf(t)
	s := &scene{
		kafka:    gatewaytest.DialKafka(t, brokers),
		config:   gatewaytest.NewConfig(t, brokers),
		receiver: gatewaytest.NewReceiver(t, script),
		produced: new(gatewaytest.Produced),
		topic:    gatewaytest.Name(t),
		id:       gatewaytest.Name(t),
	}
	if partitions > 0 {
		s.kafka.CreateTopic(t, s.topic, partitions)
	}
	s.gateway = gatewaytest.StartGateway(t, s.config)
	return s
}

// register creates the scene's webhook on its topic, from the earliest record
// on; fields are those that differ from the defaults.
func (s *scene) register(t *testing.T, fields object) gatewaytest.Webhook {
	t.Helper()
	spec := object{"url": s.receiver.URL(s.id), "topics": []string{s.topic}, "start": "earliest"}
	maps.Copy(spec, fields)
	webhook := s.gateway.API.Register(t, s.id, spec)
	s.receiver.Verify(t, s.id, webhook.Secret)
	s.group = webhook.GroupID
	return webhook
}

// restart runs the same installation again.
func (s *scene) restart(t *testing.T) {
	t.Helper()
	s.gateway = gatewaytest.StartGateway(t, s.config)
}

// awaitDistinct waits until so many different records have arrived.
func (s *scene) awaitDistinct(t *testing.T, records int, patience time.Duration) {
	t.Helper()
	gatewaytest.Await(t, patience, func() error {
		if got := s.receiver.Distinct(s.id); got < records {
			return fmt.Errorf("%d of %d records arrived; complaints %v", got, records, s.receiver.Complaints())
		}
		return nil
	})
}

// awaitEnd waits until the group has committed the end of the topic, which may
// still move: a transaction has ended before its markers are written.
func (s *scene) awaitEnd(t *testing.T, patience time.Duration) {
	t.Helper()
	gatewaytest.Await(t, patience, func() error {
		committed := s.kafka.Committed(t, s.group)
		if ends := s.kafka.Ends(t, s.topic); !maps.Equal(committed, ends) {
			return fmt.Errorf("committed is %v, the ends are %v", committed, ends)
		}
		return nil
	})
}

// awaitState waits until all partitions of the webhook are in one of the states.
func (s *scene) awaitState(t *testing.T, states ...string) {
	t.Helper()
	gatewaytest.Await(t, soon, func() error {
		rows := s.gateway.API.Partitions(t, s.id)
		for _, row := range rows {
			if !slices.Contains(states, row.State) {
				return fmt.Errorf("partition %d is %s, want %v", row.Partition, row.State, states)
			}
		}
		if len(rows) == 0 {
			return fmt.Errorf("no partitions, want all of them in %v", states)
		}
		return nil
	})
}

// awaitDelivery waits for delivery number n, from 0, of the scene's webhook.
func (s *scene) awaitDelivery(t *testing.T, n int) *gatewaytest.Delivery {
	t.Helper()
	var found gatewaytest.Delivery
	gatewaytest.Await(t, soon, func() error {
		deliveries := s.receiver.Deliveries(s.id)
		if len(deliveries) <= n {
			return fmt.Errorf("%d deliveries, want more than %d; complaints %v", len(deliveries), n, s.receiver.Complaints())
		}
		found = deliveries[n]
		return nil
	})
	return &found
}

// evidence of the scene's webhook as it stands now.
func (s *scene) evidence(t *testing.T) gatewaytest.Evidence {
	t.Helper()
	return gatewaytest.Evidence{
		Webhook:    s.id,
		Produced:   s.produced,
		Deliveries: s.receiver.Deliveries(s.id),
		Acks:       s.receiver.Acks(s.id),
		Complaints: s.receiver.Complaints(),
		Committed:  s.kafka.Committed(t, s.group),
		Commits:    s.kafka.Commits(t)[s.group],
	}
}

// finish waits until everything is delivered and committed, and audits.
func (s *scene) finish(t *testing.T, patience time.Duration) gatewaytest.Report {
	t.Helper()
	s.awaitEnd(t, patience)
	e := s.evidence(t)
	e.Ends = s.kafka.Ends(t, s.topic)
	report := gatewaytest.Audit(e)
	report.Check(t)
	return report
}
