package groupmanager

import (
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/confluentinc/confluent-kafka-go/v2/kafka"

	"github.com/kpush/kpush/internal/gatewaytest"
	"github.com/kpush/kpush/internal/kafkaconf"
	"github.com/kpush/kpush/internal/records"
)

// A fatal error of an idempotent producer stays for good: without another producer
// every webhook with dead letters would be stuck until the process is restarted.
func TestDeadLettersGoOnAfterTheirProducerFailed(t *testing.T) {
	broker := gatewaytest.NewBroker(t)
	admin := gatewaytest.DialKafka(t, broker.Addr())
	admin.CreateTopic(t, "dead", 1)
	conf := kafkaconf.Config{Brokers: []string{broker.Addr()}, Logger: slog.New(slog.DiscardHandler)}
	w, err := newDeadLetterWriter(conf.Producer(), logReader(conf), conf.Logger)
	if err != nil {
		t.Fatal(err)
	}
	defer w.close()
	b := records.Get()
	defer b.Free()
	b.Append(records.Record{Timestamp: 1_790_000_000_000}, nil, []byte("value"))
	letter := deadLetter{to: "dead", webhook: "w", source: orders, batch: b, up: 1, code: "http_500", status: 500, attempts: 3, first: time.Now(), now: time.Now()}

	if err := w.Write(t.Context(), letter); err != nil {
		t.Fatalf("writing: %v", err)
	}
	first := w.producer
	first.TestFatalError(kafka.ErrOutOfOrderSequenceNumber, "on purpose")
	if err := w.Write(t.Context(), letter); err == nil {
		t.Error("a producer that has failed for good took a dead letter")
	}
	if err := w.Write(t.Context(), letter); err != nil {
		t.Errorf("writing after the producer had failed: %v, want it written by another", err)
	}
	if got := admin.Ends(t, "dead")[gatewaytest.Partition{Topic: "dead", ID: 0}]; got != 2 {
		t.Errorf("%d dead letters, want 2", got)
	}
	gatewaytest.Await(t, 10*time.Second, func() error {
		if !first.IsClosed() {
			return errors.New("the producer that failed is still there")
		}
		return nil
	})
}
