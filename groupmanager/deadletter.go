package groupmanager

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/confluentinc/confluent-kafka-go/v2/kafka"

	"github.com/kpush/kpush/internal/records"
)

// deadLetter is one delivery to be written to the dead letter topic: its open
// records as they were, and why they come there (contract section 7).
type deadLetter struct {
	to       string // topic
	webhook  string
	source   topicPartition
	batch    *records.Batch
	from, up int // records [from,up) of batch
	code     string
	status   int
	attempts int
	first    time.Time // first attempt
	now      time.Time
}

// deadLetterOf describes what is open of o.
func (l *lane) deadLetterOf(o *outgoing, now time.Time) *deadLetter {
	from := o.first()
	return &deadLetter{
		to: *l.webhook.DeadLetter.Topic, webhook: l.webhook.ID, source: l.tenure.topicPartition,
		batch: o.batch, from: from, up: from + o.book.Records(),
		code: o.code, status: o.status, attempts: o.book.Attempts(), first: o.book.FirstAttempt(), now: now,
	}
}

// deadLetterWriter writes dead letters with one idempotent producer.
type deadLetterWriter struct{ producer *kafka.Producer }

// Write produces the records in order and returns once the broker confirmed all
// of them (acks=all), or with the first error. After an error some may have been
// written; writing again makes duplicates there, never a loss.
func (w deadLetterWriter) Write(ctx context.Context, l deadLetter) error {
	n := l.up - l.from
	reports := make(chan kafka.Event, n)
	for i := l.from; i < l.up; i++ {
		if err := w.producer.Produce(l.message(i), reports); err != nil {
			return fmt.Errorf("producing to %s: %w", l.to, err)
		}
	}
	for range n {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case e := <-reports:
			if m, ok := e.(*kafka.Message); ok && m.TopicPartition.Error != nil {
				return fmt.Errorf("producing to %s: %w", l.to, m.TopicPartition.Error)
			}
		}
	}
	return nil
}

// message is record i with its own headers, and ours behind them.
func (l deadLetter) message(i int) *kafka.Message {
	r := &l.batch.Records[i]
	m := &kafka.Message{
		TopicPartition: kafka.TopicPartition{Topic: &l.to, Partition: kafka.PartitionAny},
		Key:            l.batch.Key(i),
		Value:          l.batch.Value(i),
	}
	if r.Timestamp >= 0 {
		m.Timestamp = time.UnixMilli(r.Timestamp)
	}
	for j := range l.batch.Headers(i) {
		name, value := l.batch.Header(i, j)
		m.Headers = append(m.Headers, kafka.Header{Key: string(name), Value: value})
	}
	add := func(name, value string) {
		m.Headers = append(m.Headers, kafka.Header{Key: name, Value: []byte(value)})
	}
	add("kpush-webhook", l.webhook)
	add("kpush-source-topic", l.source.topic)
	add("kpush-source-partition", strconv.Itoa(int(l.source.partition)))
	add("kpush-source-offset", strconv.FormatInt(r.Offset, 10))
	add("kpush-source-timestamp", strconv.FormatInt(r.Timestamp, 10))
	add("kpush-error-code", l.code)
	if l.status != 0 {
		add("kpush-error-status", strconv.Itoa(l.status))
	}
	add("kpush-error-detail", l.detail())
	add("kpush-attempts", strconv.Itoa(l.attempts))
	add("kpush-first-attempt-at", l.first.UTC().Format(time.RFC3339Nano))
	add("kpush-dead-lettered-at", l.now.UTC().Format(time.RFC3339Nano))
	return m
}

// detail says in words why the record is here, from our own vocabulary only.
func (l deadLetter) detail() string {
	if l.status != 0 {
		return fmt.Sprintf("given up after %d attempts; the last was answered %d", l.attempts, l.status)
	}
	return fmt.Sprintf("given up after %d attempts; the last failed with %s", l.attempts, l.code)
}
