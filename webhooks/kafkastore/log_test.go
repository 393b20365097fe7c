package kafkastore

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/confluentinc/confluent-kafka-go/v2/kafka"
	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kfake"
	"go.uber.org/goleak"

	"github.com/kpush/kpush/internal/kafkaconf"
	"github.com/kpush/kpush/internal/kafkanode"
	"github.com/kpush/kpush/webhooks"
)

const patience = 20 * time.Second

func startBroker(t *testing.T, opts ...kfake.Opt) *kfake.Cluster {
	t.Helper()
	cluster, err := kfake.NewCluster(append([]kfake.Opt{kfake.NumBrokers(1), kfake.AllowAutoTopicCreation()}, opts...)...)
	if err != nil {
		t.Fatalf("starting the broker: %v", err)
	}
	t.Cleanup(cluster.Close)
	return cluster
}

// node is the real Kafka of the tests, if there is Java.
var node kafkanode.Shared

func TestMain(m *testing.M) {
	code := m.Run()
	node.Stop()
	// A client that is left behind ends when the call that it is in has run out of
	// its time, and is then closed.
	err := goleak.Find()
	for deadline := time.Now().Add(stepTimeout + closeTimeout); err != nil && time.Now().Before(deadline); {
		err = goleak.Find() // waits between its looks
	}
	if err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// onEachBroker runs a test on the embedded broker and on Apache Kafka.
func onEachBroker(t *testing.T, test func(t *testing.T, address, topic string)) {
	t.Run("embedded", func(t *testing.T) {
		t.Parallel()
		test(t, startBroker(t).ListenAddrs()[0], DefaultTopic)
	})
	t.Run("Apache Kafka", func(t *testing.T) {
		test(t, node.Node(t).Brokers(), "registry-of-"+t.Name()[:strings.Index(t.Name(), "/")])
	})
}

func newLog(t *testing.T, address, topic string, logger *slog.Logger) *Log {
	t.Helper()
	l, err := New(Config{Kafka: kafkaconf.Config{Brokers: []string{address}}, Topic: topic, ReplicationFactor: -1, Logger: logger})
	if err != nil {
		t.Fatalf("New: %v", err)
	}
	return l
}

// running is a log under test and what it has applied.
type running struct {
	*Log
	caughtUp chan struct{}
	resign   func() error // ends the latest Lead and waits
	wait     func() error // for the end of Run; returns its error
	stop     func() error // ends Lead and Run, and waits

	mu     sync.Mutex
	values map[string]string
}

func (r *running) get(key string) (string, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	v, ok := r.values[key]
	return v, ok
}

func (r *running) snapshot() map[string]string {
	r.mu.Lock()
	defer r.mu.Unlock()
	m := map[string]string{}
	for k, v := range r.values {
		m[k] = v
	}
	return m
}

func run(t *testing.T, l *Log) *running {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{Log: l, caughtUp: make(chan struct{}), values: map[string]string{}, resign: func() error { return nil }}
	ended := make(chan error, 1)
	go func() {
		ended <- l.Run(ctx, func(key string, value []byte, _ int64) {
			r.mu.Lock()
			defer r.mu.Unlock()
			if value == nil {
				delete(r.values, key)
				return
			}
			r.values[key] = string(value)
		}, func() { close(r.caughtUp) })
	}()
	r.wait = sync.OnceValue(func() error { return <-ended })
	r.stop = func() error {
		r.resign()
		cancel()
		return r.wait()
	}
	t.Cleanup(func() { r.stop() })
	return r
}

func (r *running) awaitCaughtUp(t *testing.T) {
	t.Helper()
	select {
	case <-r.caughtUp:
	case <-time.After(patience):
		t.Fatal("the log was not read to its end")
	}
}

// lead waits until the log has been read and leads it.
func (r *running) lead(t *testing.T) {
	t.Helper()
	r.resign()
	r.awaitCaughtUp(t)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- r.Lead(ctx) }()
	eventually(t, "appends are taken", func() bool { return r.writer.Load() != nil })
	r.resign = sync.OnceValue(func() error {
		cancel()
		return <-ended
	})
}

// follow is run, until the log has been read.
func follow(t *testing.T, l *Log) *running {
	t.Helper()
	r := run(t, l)
	r.awaitCaughtUp(t)
	return r
}

// lead is run, by a log that leads.
func lead(t *testing.T, l *Log) *running {
	t.Helper()
	r := run(t, l)
	r.lead(t)
	return r
}

func (r *running) append(t *testing.T, key, value string) int64 {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	offset, err := r.Append(ctx, key, []byte(value))
	if err != nil {
		t.Fatalf("Append(%s): %v", key, err)
	}
	return offset
}

// eventually polls, for what a broker does in its own time.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(patience)
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("not so in %v: %s", patience, what)
		}
	}
}

func TestWhatIsAppendedIsReadBackAndSurvivesReopening(t *testing.T) {
	t.Parallel()
	onEachBroker(t, func(t *testing.T, address, topic string) {
		first := lead(t, newLog(t, address, topic, nil))
		last := int64(-1)
		for i := range 5 {
			offset := first.append(t, fmt.Sprint("k", i%3), fmt.Sprint("v", i))
			if offset <= last {
				t.Errorf("append %d went to offset %d, want above %d", i, offset, last)
			}
			last = offset
		}
		if _, err := first.Append(t.Context(), "k1", nil); err != nil {
			t.Fatalf("appending a tombstone: %v", err)
		}
		want := map[string]string{"k0": "v3", "k2": "v2"}
		eventually(t, "all is read back", func() bool { return cmp.Equal(first.snapshot(), want) })
		if err := first.stop(); !errors.Is(err, context.Canceled) {
			t.Errorf("Run ended with %v, want context.Canceled", err)
		}

		second := follow(t, newLog(t, address, topic, nil))
		eventually(t, "all is read after reopening", func() bool { return cmp.Equal(second.snapshot(), want) })
	})
}

func TestTheTopicIsMadeCompacted(t *testing.T) {
	t.Parallel()
	onEachBroker(t, func(t *testing.T, address, topic string) {
		follow(t, newLog(t, address, topic, nil))

		admin := newAdmin(t, address)
		policy := describe(t, admin, topic)
		if policy != compact {
			t.Errorf("cleanup.policy is %q, want %q", policy, compact)
		}
	})
}

func newAdmin(t *testing.T, address string) *kafka.AdminClient {
	t.Helper()
	admin, err := kafka.NewAdminClient(&kafka.ConfigMap{"bootstrap.servers": address, "log_level": 0})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(admin.Close)
	return admin
}

func describe(t *testing.T, admin *kafka.AdminClient, topic string) string {
	t.Helper()
	results, err := admin.DescribeConfigs(t.Context(), []kafka.ConfigResource{{Type: kafka.ResourceTopic, Name: topic}})
	if err != nil {
		t.Fatal(err)
	}
	return results[0].Config[cleanupPolicy].Value
}

func TestATopicThatWouldLoseWebhooksIsRefused(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		partitions int
		policy     string
		says       string
	}{
		"deletion":              {1, "delete", "kafka-configs.sh"},
		"compaction + deletion": {1, "compact,delete", "kafka-configs.sh"},
		"several partitions":    {3, "compact", "registry.topic"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			address := startBroker(t).ListenAddrs()[0]
			results, err := newAdmin(t, address).CreateTopics(t.Context(), []kafka.TopicSpecification{{
				Topic: DefaultTopic, NumPartitions: tt.partitions, ReplicationFactor: 1,
				Config: map[string]string{cleanupPolicy: tt.policy},
			}})
			if err != nil || results[0].Error.Code() != kafka.ErrNoError {
				t.Fatal(err, results)
			}
			err = newLog(t, address, DefaultTopic, nil).Run(t.Context(), func(string, []byte, int64) {}, func() {})
			if !errors.Is(err, ErrUnsuitable) || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("Run: %v, want ErrUnsuitable and a word about %s", err, tt.says)
			}
		})
	}
}

func TestManyProcessesThatStartAtOnceMakeOneTopic(t *testing.T) {
	t.Parallel()
	onEachBroker(t, func(t *testing.T, address, topic string) {
		var out lockedBuffer
		var logs []*running
		for range 4 {
			logs = append(logs, run(t, newLog(t, address, topic, slog.New(slog.NewTextHandler(&out, nil)))))
		}
		for _, r := range logs {
			r.awaitCaughtUp(t)
		}
		if n := strings.Count(out.String(), "created the registry's topic"); n != 1 {
			t.Errorf("%d say that they have made the topic, want 1: %s", n, out.String())
		}
	})
}

func TestABrokerThatComesLateIsFound(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	listener.Close()

	var out lockedBuffer
	l := run(t, newLog(t, address, "", slog.New(slog.NewTextHandler(&out, nil))))
	eventually(t, "the failure is logged", func() bool { return strings.Contains(out.String(), "tried again") })

	startBroker(t, kfake.ListenFn(func(string, string) (net.Listener, error) { return net.Listen("tcp", address) }))
	l.lead(t)
	l.append(t, "a", "1")
	eventually(t, "a = 1 is read", func() bool { v, _ := l.get("a"); return v == "1" })
}

func TestARegistryOnKafkaKeepsItsSecretsSealed(t *testing.T) {
	t.Parallel()
	onEachBroker(t, func(t *testing.T, address, topic string) {
		key := make([]byte, 32)
		rand.Read(key)
		keys, err := webhooks.NewKeys(base64.StdEncoding.EncodeToString(key))
		if err != nil {
			t.Fatal(err)
		}
		w, err := webhooks.Decode([]byte(`{"url": "https://example.com/", "topics": ["orders"]}`), "orders")
		if err != nil {
			t.Fatal(err)
		}

		registry, stop := runRegistry(t, newLog(t, address, topic, nil), keys)
		created, err := registry.Create(t.Context(), w, map[string]webhooks.Pinned{"orders": {Partitions: 3}})
		if err != nil {
			t.Fatalf("Create: %v", err)
		}
		stop()

		var stored []byte
		raw := follow(t, newLog(t, address, topic, nil))
		eventually(t, "the webhook is read", func() bool { _, ok := raw.get("webhook/default/orders"); return ok })
		for k, v := range raw.snapshot() {
			stored = append(append(stored, k...), v...)
		}
		raw.stop()
		if !bytes.Contains(stored, []byte("https://example.com/")) {
			t.Errorf("the webhook is not in the topic: %q", stored)
		}
		for name, form := range map[string][]byte{
			"raw": created.Secret, "base64": []byte(base64.StdEncoding.EncodeToString(created.Secret)),
		} {
			if len(form) == 0 || bytes.Contains(stored, form) {
				t.Errorf("the secret stands in the topic, %s", name)
			}
		}

		again, stop := runRegistry(t, newLog(t, address, topic, nil), keys)
		defer stop()
		if err := again.Await(t.Context(), created.Revision); err != nil {
			t.Fatalf("Await: %v", err)
		}
		got, err := again.Get("default", "orders")
		if err != nil {
			t.Fatalf("Get after a restart: %v", err)
		}
		if diff := cmp.Diff(created, got); diff != "" {
			t.Errorf("after a restart (-created +got):\n%s", diff)
		}
	})
}

func runRegistry(t *testing.T, l *Log, keys *webhooks.Keys) (*webhooks.Registry, func()) {
	t.Helper()
	registry := webhooks.NewRegistry(l, keys, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(t.Context())
	ended, led := make(chan error, 1), make(chan error, 1)
	go func() { ended <- registry.Run(ctx) }()
	go func() { led <- registry.Lead(ctx) }()
	select {
	case <-registry.Ready():
	case <-time.After(patience):
		t.Fatal("the registry did not become ready")
	}
	eventually(t, "the registry leads", func() bool { return registry.Confirm(t.Context()) == nil })
	return registry, func() {
		cancel()
		if err := <-led; err != nil {
			t.Errorf("Lead: %v", err)
		}
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	}
}

// lockedBuffer collects a log that is written from several goroutines.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}
