package groupmanager_test

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/http/httptest"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/kpush/kpush/groupmanager"
	"github.com/kpush/kpush/internal/devbroker"
	"github.com/kpush/kpush/internal/gatewaytest"
	"github.com/kpush/kpush/internal/kafkaconf"
	"github.com/kpush/kpush/replica"
	"github.com/kpush/kpush/webhooks"
	"github.com/kpush/kpush/webhooks/egress"
	"github.com/kpush/kpush/webhooks/kafkastore"
)

// house is a whole replica but for the API: a manager with its registry, among its
// like, on an embedded broker.
type house struct {
	*groupmanager.Manager
	replica  *replica.Replica
	internal *httptest.Server // of calls from other replicas
	id       string           // replica-1, and so on
	houses   *int             // how many there are on the broker
	kafka    *gatewaytest.Kafka
	brokers  string
	receiver *gatewaytest.Receiver
	stop     func()

	properties map[string]string // of the Kafka clients, besides the usual ones
	drain      time.Duration     // zero: 5 s
	guard      *egress.Guard     // nil: one that lets everything on loopback through
}

// embedded starts a broker in memory.
func embedded(t *testing.T) string {
	t.Helper()
	broker, err := devbroker.Start(devbroker.Options{Listen: "127.0.0.1:0", Ephemeral: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { broker.Close() })
	return broker.Addr()
}

// newHouse starts the first replica on a broker of its own. It leads.
func newHouse(t *testing.T, script gatewaytest.Script) *house {
	t.Helper()
	h := &house{id: "replica-1", houses: new(int), brokers: embedded(t), receiver: gatewaytest.NewReceiver(t, script)}
	*h.houses = 1
	h.kafka = gatewaytest.DialKafka(t, h.brokers)
	h.start(t)
	return h
}

// another starts one more replica beside h: same broker, keys and receiver. When it
// returns, the two know each other.
func (h *house) another(t *testing.T) *house {
	t.Helper()
	*h.houses++
	other := &house{
		id: fmt.Sprint("replica-", *h.houses), houses: h.houses,
		kafka: h.kafka, brokers: h.brokers, receiver: h.receiver, properties: h.properties, drain: h.drain,
	}
	other.start(t)
	for _, pair := range [][2]*house{{h, other}, {other, h}} {
		gatewaytest.Await(t, patience, func() error { return pair[0].knows(t, pair[1]) })
	}
	return other
}

// knows returns nil if other is a live peer of h.
func (h *house) knows(t *testing.T, other *house) error {
	peers, err := h.replica.Others(t.Context())
	if err != nil {
		return err
	}
	for _, p := range peers {
		if p == other.replica.Self() {
			return nil
		}
	}
	return fmt.Errorf("%s knows of %v, which %s is not among", h.id, peers, other.id)
}

// leads tells whether h is the leader, asking Kafka.
func (h *house) leads(t *testing.T) bool {
	t.Helper()
	p, err := h.replica.Leader(t.Context(), true)
	return err == nil && p == h.replica.Self()
}

// start runs the house until stop, or the end of the test. When it returns, there is
// a leader, and changes are taken.
func (h *house) start(t *testing.T) {
	t.Helper()
	logger := slog.New(slog.DiscardHandler)
	if os.Getenv("KPUSH_TEST_LOG") != "" {
		logger = slog.New(slog.NewTextHandler(os.Stderr, nil)).With("house", h.id)
	}
	conf := kafkaconf.Config{Brokers: []string{h.brokers}, Logger: logger, Properties: map[string]string{
		"session.timeout.ms": "6000", "heartbeat.interval.ms": "500", "topic.metadata.refresh.interval.ms": "1000",
	}}
	maps.Copy(conf.Properties, h.properties)
	keys, err := webhooks.NewKeys("MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=")
	if err != nil {
		t.Fatal(err)
	}
	log, err := kafkastore.New(kafkastore.Config{Kafka: conf, Logger: logger})
	if err != nil {
		t.Fatal(err)
	}
	registry := webhooks.NewRegistry(log, keys, logger)
	h.internal = httptest.NewUnstartedServer(nil)
	h.replica, err = replica.New(replica.Config{
		Kafka: conf, Topic: kafkastore.DefaultTopic, ID: h.id, URL: "http://" + h.internal.Listener.Addr().String(),
		Keys: keys.Derive("internal-call"), Lead: registry.Lead, Logger: logger,
	})
	if err != nil {
		t.Fatal(err)
	}
	h.Manager, err = groupmanager.New(groupmanager.Config{
		Kafka: conf, Registry: registry, RegistryTopic: kafkastore.DefaultTopic, Keys: keys, ReplicaID: h.id, Peers: h.replica,
		AckURL: "http://gateway.test/ack", UserAgent: "kpush/test", DrainTimeout: cmp.Or(h.drain, 5*time.Second), Logger: logger,
		Guard: cmp.Or(h.guard, egress.New(receivers(t), egress.Options{})),
	})
	if err != nil {
		t.Fatal(err)
	}
	h.internal.Config.Handler = h.replica
	h.internal.Start()
	h.stop = h.live(t, registry, h.internal.Close)
	t.Cleanup(h.stop)
	gatewaytest.Await(t, patience, h.Ready)
	gatewaytest.Await(t, patience, func() error {
		if leader, err := h.replica.Leader(t.Context(), true); err != nil || leader != h.replica.Self() {
			return err
		}
		return registry.Confirm(t.Context())
	})
}

// receivers allows what the receivers of these tests are.
func receivers(t *testing.T) egress.Policy {
	t.Helper()
	ports, err := egress.ParsePorts([]string{egress.AnyPort})
	if err != nil {
		t.Fatal(err)
	}
	return egress.Policy{AllowHTTP: true, AllowedPorts: ports, AllowedCIDRs: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}
}

// live runs the parts of the house, and returns what ends them in the order in
// which a gateway does.
func (h *house) live(t *testing.T, registry *webhooks.Registry, closeInternal func()) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	apart, leaveAlone := context.WithCancel(context.Background())
	reading, stopReading := context.WithCancel(context.Background())
	manager, peer := h.Manager, h.replica // a later start makes others
	managed, took, read := make(chan error, 1), make(chan error, 1), make(chan error, 1)
	go func() { managed <- manager.Run(ctx) }()
	go func() { read <- registry.Run(reading) }()
	go func() {
		select {
		case <-registry.Ready():
			took <- peer.Run(apart)
		case <-apart.Done():
			took <- nil
		}
	}()
	stopped := false
	return func() {
		if stopped {
			return
		}
		stopped = true
		peer.Leave()
		cancel()
		if err := <-managed; err != nil {
			t.Errorf("the manager ended with %v", err)
		}
		closeInternal()
		leaveAlone()
		if err := <-took; err != nil {
			t.Errorf("the replica ended with %v", err)
		}
		stopReading()
		<-read
	}
}

// webhook registers one that delivers the topic to the receiver.
func (h *house) webhook(t *testing.T, id, topic string, change ...func(*webhooks.Webhook)) webhooks.Entry {
	t.Helper()
	e, err := h.Create(t.Context(), h.spec(t, id, topic, change...))
	if err != nil {
		t.Fatalf("creating webhook %s: %v", id, err)
	}
	h.receiver.Verify(t, id, webhooks.FormatSecret(e.Secret))
	return e
}

func (h *house) spec(t *testing.T, id, topic string, change ...func(*webhooks.Webhook)) webhooks.Webhook {
	t.Helper()
	w, err := webhooks.Decode(fmt.Appendf(nil, `{"url":%q,"topics":[%q]}`, h.receiver.URL(id), topic), id)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range change {
		c(&w)
	}
	return w
}

func earliest(w *webhooks.Webhook) { w.Start = webhooks.StartEarliest }
func batchOf(n int) func(*webhooks.Webhook) {
	return func(w *webhooks.Webhook) { w.Batch.MaxRecords = n }
}

// caughtUp waits until the group's committed offsets are the ends of the topic.
func (h *house) caughtUp(t *testing.T, id string) {
	t.Helper()
	gatewaytest.Await(t, patience, func() error {
		rows, err := h.Partitions(t.Context(), "default", id)
		if err != nil {
			return err
		}
		for _, r := range rows {
			if r.Lag == nil || *r.Lag != 0 {
				return fmt.Errorf("%s [%d] is %s with lag %v, last error %+v", r.Topic, r.Partition, r.State, show(r.Lag), r.LastError)
			}
		}
		return nil
	})
}

func show(n *int64) string {
	if n == nil {
		return "unknown"
	}
	return fmt.Sprint(*n)
}

// audit checks everything that was delivered to the webhook so far.
func (h *house) audit(t *testing.T, id, topic string, produced *gatewaytest.Produced, caughtUp bool) gatewaytest.Report {
	t.Helper()
	e := gatewaytest.Evidence{
		Webhook: id, Produced: produced,
		Deliveries: h.receiver.Deliveries(id), Acks: h.receiver.Acks(id), Complaints: h.receiver.Complaints(),
		Committed: h.kafka.Committed(t, "kpush.default."+id),
	}
	if caughtUp {
		e.Ends = h.kafka.Ends(t, topic)
	}
	r := gatewaytest.Audit(e)
	r.Check(t)
	return r
}
