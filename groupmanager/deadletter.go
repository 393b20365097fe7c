package groupmanager

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"time"

	"github.com/confluentinc/confluent-kafka-go/v2/kafka"

	"github.com/kpush/kpush/internal/records"
	"github.com/kpush/kpush/webhooks/delivery"
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
	reason   string           // of the receiver, for all records; empty: none
	reasons  map[int64]string // and for single ones, by offset
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
		code: o.code, status: o.status, reason: o.reason, reasons: o.reasons, attempts: o.book.Attempts(), first: o.book.FirstAttempt(), now: now,
	}
}

// deadLetterWriter writes dead letters with one idempotent producer. The fatal error
// of a producer never heals, so after one another takes its place. Any goroutine may
// call Write; close comes when none does any more.
type deadLetterWriter struct {
	conf     kafka.ConfigMap
	readLogs func(<-chan kafka.LogEvent) (stop func())
	logger   *slog.Logger
	running  sync.WaitGroup // what reads the producers, and what ends those that failed

	mu       sync.Mutex
	producer *letterProducer
}

// letterProducer is a producer with the writes that use it.
type letterProducer struct {
	*kafka.Producer
	writes sync.WaitGroup // grows only while the writer has this producer
}

// newDeadLetterWriter asks nothing of Kafka before the first Write.
func newDeadLetterWriter(conf kafka.ConfigMap, readLogs func(<-chan kafka.LogEvent) (stop func()), logger *slog.Logger) (*deadLetterWriter, error) {
	w := &deadLetterWriter{conf: conf, readLogs: readLogs, logger: logger}
	var err error
	w.producer, err = w.open()
	return w, err
}

// open makes a producer, and reads what it tells besides delivery reports until it is
// closed; unread that would hold up its flush.
func (w *deadLetterWriter) open() (*letterProducer, error) {
	p, err := kafka.NewProducer(&w.conf)
	if err != nil {
		return nil, fmt.Errorf("making the dead letter producer: %w", err)
	}
	w.running.Go(func() {
		defer w.readLogs(p.Logs())()
		for e := range p.Events() {
			if err, ok := e.(kafka.Error); ok {
				w.logger.Debug("dead letter producer", "error", err)
			}
		}
	})
	return &letterProducer{Producer: p}, nil
}

// close ends the producer.
func (w *deadLetterWriter) close() {
	w.producer.Close()
	w.running.Wait()
}

// renew puts another producer in the place of one that failed for good, which is
// closed when the last write has left it: closed at once it would not tell what became
// of their records. Should none be made, the next write that fails tries again.
func (w *deadLetterWriter) renew(failed *letterProducer, why error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.producer != failed {
		return // another write saw it first
	}
	next, err := w.open()
	if err != nil {
		w.logger.Error("the dead letter producer failed for good and could not be made anew", "error", why, "because", err)
		return
	}
	w.producer = next
	w.logger.Error("the dead letter producer failed for good and was made anew", "error", why)
	w.running.Go(func() {
		failed.writes.Wait()
		failed.Close()
	})
}

// use is the producer for one write, which has to tell when it is done.
func (w *deadLetterWriter) use() *letterProducer {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.producer.writes.Add(1)
	return w.producer
}

// Write produces the records in order and returns once the broker confirmed all
// of them (acks=all), or with the first error. After an error some may have been
// written; writing again makes duplicates there, never a loss.
func (w *deadLetterWriter) Write(ctx context.Context, l deadLetter) error {
	p := w.use()
	defer p.writes.Done()
	err := p.write(ctx, l)
	if err != nil {
		if fatal := p.GetFatalError(); fatal != nil {
			w.renew(p, fatal)
		}
	}
	return err
}

func (p *letterProducer) write(ctx context.Context, l deadLetter) error {
	n := l.up - l.from
	reports := make(chan kafka.Event, n)
	for i := l.from; i < l.up; i++ {
		if err := p.Produce(l.message(i), reports); err != nil {
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
	add("kpush-error-detail", l.detail(r.Offset))
	add("kpush-attempts", strconv.Itoa(l.attempts))
	if !l.first.IsZero() { // it may never have been sent
		add("kpush-first-attempt-at", l.first.UTC().Format(time.RFC3339Nano))
	}
	add("kpush-dead-lettered-at", l.now.UTC().Format(time.RFC3339Nano))
	return m
}

// detail says in words why a record is here, from our own vocabulary; only where its
// receiver gave it up, in the receiver's.
func (l deadLetter) detail(offset int64) string {
	if l.code == codeRejected {
		reason := l.reason
		if r, ok := l.reasons[offset]; ok {
			reason = r
		}
		if reason == "" {
			return "given up by the receiver"
		}
		return "given up by the receiver: " + reason
	}
	if l.code == delivery.CodeUndecodable {
		return "the value is not JSON, so the record was not sent"
	}
	if l.status != 0 {
		return fmt.Sprintf("given up after %d attempts; the last was answered %d", l.attempts, l.status)
	}
	return fmt.Sprintf("given up after %d attempts; the last failed with %s", l.attempts, l.code)
}
