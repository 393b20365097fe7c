package devbroker_test

import (
	"errors"
	"fmt"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/confluentinc/confluent-kafka-go/v2/kafka"
	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/kpush/kpush/internal/devbroker"
)

// patience bounds every wait on the client; nothing here takes a tenth of it.
const patience = 15 * time.Second

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func start(t *testing.T, opts devbroker.Options) *devbroker.Broker {
	t.Helper()
	b, err := devbroker.Start(opts)
	if err != nil {
		t.Fatalf("Start(%+v): %v", opts, err)
	}
	return b
}

// TestSurvivesRestart is what the data folder is for: the gateway's client comes
// back to the same port and finds topic, records and committed offsets.
func TestSurvivesRestart(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "made", "on", "demand")
	b := start(t, devbroker.Options{Listen: "127.0.0.1:0", DataDir: dir})
	addr := b.Addr()
	produce(t, addr, "orders", "one", "two", "three")
	consumeAndCommit(t, addr, "orders", []string{"one", "two"})
	if err := b.Close(); err != nil {
		t.Fatalf("Close: %v", err)
	}

	b = start(t, devbroker.Options{Listen: addr, DataDir: dir})
	defer b.Close()
	if b.Addr() != addr {
		t.Fatalf("address after the restart = %s, want %s", b.Addr(), addr)
	}
	consumeAndCommit(t, addr, "orders", []string{"three"})
}

func TestEphemeralForgets(t *testing.T) {
	dir := t.TempDir()
	for range 2 {
		b := start(t, devbroker.Options{Listen: "127.0.0.1:0", DataDir: dir, Ephemeral: true})
		produce(t, b.Addr(), "orders", "one")
		consumeAndCommit(t, b.Addr(), "orders", []string{"one"})
		b.Close()
	}
}

func TestStartRefuses(t *testing.T) {
	dir := t.TempDir()
	b := start(t, devbroker.Options{Listen: "127.0.0.1:0", DataDir: dir})
	defer b.Close()

	_, err := devbroker.Start(devbroker.Options{Listen: b.Addr(), Ephemeral: true})
	if !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("a port in use: error = %v, want EADDRINUSE", err)
	}
	_, err = devbroker.Start(devbroker.Options{Listen: "127.0.0.1:0", DataDir: dir})
	if !errors.Is(err, devbroker.ErrDataInUse) {
		t.Errorf("a data folder in use: error = %v, want %v", err, devbroker.ErrDataInUse)
	}
	for _, listen := range []string{"0.0.0.0:0", "[::]:0", ":9092", "nonsense"} {
		if b, err := devbroker.Start(devbroker.Options{Listen: listen, Ephemeral: true}); err == nil {
			b.Close()
			t.Errorf("Start on %q succeeded, want a refusal: no client could dial what it is told", listen)
		}
	}
}

func TestTopicsAppearWithDefaultPartitions(t *testing.T) {
	b := start(t, devbroker.Options{Listen: "127.0.0.1:0"})
	defer b.Close()
	produce(t, b.Addr(), "made-by-a-producer", "x")
	admin, err := kafka.NewAdminClient(&kafka.ConfigMap{"bootstrap.servers": b.Addr()})
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	topic := "made-by-a-producer"
	meta, err := admin.GetMetadata(&topic, false, int(patience.Milliseconds()))
	if err != nil {
		t.Fatal(err)
	}
	if got := len(meta.Topics[topic].Partitions); got != devbroker.DefaultPartitions {
		t.Errorf("partitions = %d, want %d", got, devbroker.DefaultPartitions)
	}
}

// produce writes values to partition 0, and returns when all are confirmed.
func produce(t *testing.T, addr, topic string, values ...string) {
	t.Helper()
	p, err := kafka.NewProducer(&kafka.ConfigMap{"bootstrap.servers": addr, "enable.idempotence": true})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	for _, v := range values {
		reports := make(chan kafka.Event, 1)
		message := &kafka.Message{TopicPartition: kafka.TopicPartition{Topic: &topic, Partition: 0}, Value: []byte(v)}
		if err := p.Produce(message, reports); err != nil {
			t.Fatal(err)
		}
		select {
		case e := <-reports:
			if err := e.(*kafka.Message).TopicPartition.Error; err != nil {
				t.Fatalf("producing %q: %v", v, err)
			}
		case <-time.After(patience):
			t.Fatalf("producing %q: no report within %v", v, patience)
		}
	}
}

// consumeAndCommit reads exactly want as group g, from where the group stands,
// and commits behind them.
func consumeAndCommit(t *testing.T, addr, topic string, want []string) {
	t.Helper()
	c, err := kafka.NewConsumer(&kafka.ConfigMap{
		"bootstrap.servers": addr, "group.id": "g", "auto.offset.reset": "earliest", "enable.auto.commit": false,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.Subscribe(topic, nil); err != nil {
		t.Fatal(err)
	}
	var got []string
	for deadline := time.Now().Add(patience); len(got) < len(want) && time.Now().Before(deadline); {
		m, err := c.ReadMessage(100 * time.Millisecond)
		if kerr, ok := errors.AsType[kafka.Error](err); ok && kerr.IsTimeout() {
			continue
		}
		if err != nil {
			t.Fatal(fmt.Errorf("reading: %w", err))
		}
		got = append(got, string(m.Value))
		if _, err := c.CommitMessage(m); err != nil {
			t.Fatal(fmt.Errorf("committing: %w", err))
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatalf("records (-want +got):\n%s", diff)
	}
}
