package kafkastore

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/confluentinc/confluent-kafka-go/v2/kafka"

	"github.com/kpush/kpush/webhooks"
)

// appendRequest is one call of Append.
type appendRequest struct {
	ctx   context.Context
	key   string
	value []byte
	reply chan<- appendResult // has room for one
}

type appendResult struct {
	offset int64
	err    error
}

// Append implements webhooks.Log.
func (l *Log) Append(ctx context.Context, key string, value []byte) (int64, error) {
	reply := make(chan appendResult, 1)
	select {
	case l.appends <- appendRequest{ctx, key, value, reply}:
	case <-l.done:
		return 0, fmt.Errorf("%w: stopped", webhooks.ErrUnavailable)
	case <-ctx.Done():
		return 0, fmt.Errorf("%w: %w", webhooks.ErrUnavailable, ctx.Err())
	}
	select {
	case r := <-reply:
		return r.offset, r.err
	case <-l.done:
		return 0, fmt.Errorf("%w: stopped", webhooks.ErrUnavailable)
	case <-ctx.Done():
		return 0, fmt.Errorf("%w: %w", webhooks.ErrUnavailable, ctx.Err())
	}
}

// stepTimeout bounds one blocking call on the producer, which the end of a
// context does not cut short. A call that runs out of it is repeated.
const stepTimeout = 10 * time.Second

// writer owns the producer. One goroutine runs it.
//
// It keeps its producer for as long as it can: a transaction of open fate is
// brought to its end, however long the broker is away, before the next begins.
// A new producer would take the registry over anew, from a process, maybe, that
// was started because this one seemed dead.
type writer struct {
	*Log
	tookOver chan struct{} // closed once the first producer stands
	once     sync.Once     // closes it

	producer *kafka.Producer
	finish   func(context.Context) error // ends a transaction of open fate; nil if there is none
}

// run serves appends until ctx ends.
func (w *writer) run(ctx context.Context) error {
	err := w.persist(ctx, "writing to the registry", w.write, w.refuse)
	if !errors.Is(err, webhooks.ErrFenced) {
		return err
	}
	w.cfg.Logger.Error("another process has taken over the registry: this one changes nothing in it any more, until it is restarted",
		"topic", w.cfg.Topic, "error", err)
	const forEver = math.MaxInt64
	return w.refuse(ctx, forEver, err)
}

// refuse answers appends with the reason why there are none now, until ctx ends
// or the time is over.
func (w *writer) refuse(ctx context.Context, d time.Duration, reason error) error {
	over := time.NewTimer(d)
	defer over.Stop()
	for {
		select {
		case a := <-w.appends:
			a.reply <- appendResult{0, refusal(reason)}
		case <-over.C:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// refusal makes ErrUnavailable of an error unless it is ErrFenced.
func refusal(err error) error {
	if errors.Is(err, webhooks.ErrFenced) {
		return err
	}
	return fmt.Errorf("%w: %w", webhooks.ErrUnavailable, err)
}

// write makes a producer, takes over and serves appends, until ctx ends or the
// producer is of no more use.
func (w *writer) write(ctx context.Context) error {
	producer, end, err := w.newProducer(ctx, w.cfg.Kafka.TransactionalProducer(w.cfg.Topic))
	if err != nil {
		return err
	}
	defer end()
	w.producer, w.finish = producer, producer.InitTransactions
	err = w.settle(ctx)
	if err == nil {
		w.once.Do(func() { close(w.tookOver) })
		err = w.serve(ctx)
	}
	if errors.Is(err, webhooks.ErrFenced) {
		return fatal{err}
	}
	return err
}

// serve returns ctx's error, or why the producer is of no more use.
func (w *writer) serve(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case a := <-w.appends:
			offset, err := w.transact(a)
			if err == nil {
				a.reply <- appendResult{offset, nil}
				continue
			}
			err = w.judge(err)
			a.reply <- appendResult{0, refusal(err)}
			w.cfg.Logger.Warn("a write to the registry failed", "topic", w.cfg.Topic, "key", a.key, "error", err)
			if err := w.settle(ctx); err != nil {
				return err
			}
		}
	}
}

// transact writes one record in a transaction of its own. After an error that
// leaves the transaction open, w.finish is set.
func (w *writer) transact(a appendRequest) (offset int64, err error) {
	ctx, cancel := context.WithTimeout(a.ctx, w.step)
	defer cancel()
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	if err := w.producer.BeginTransaction(); err != nil {
		return 0, fmt.Errorf("beginning a transaction: %w", err)
	}
	w.finish = w.producer.AbortTransaction
	report := make(chan kafka.Event, 1)
	err = w.producer.Produce(&kafka.Message{
		TopicPartition: kafka.TopicPartition{Topic: &w.cfg.Topic, Partition: 0},
		Key:            []byte(a.key),
		Value:          a.value,
	}, report)
	if err != nil {
		return 0, fmt.Errorf("producing: %w", err)
	}
	select {
	case e := <-report:
		m, ok := e.(*kafka.Message)
		if !ok {
			return 0, fmt.Errorf("producing: the client reported %v", e)
		}
		if err := m.TopicPartition.Error; err != nil {
			return 0, fmt.Errorf("producing: %w", err)
		}
		offset = int64(m.TopicPartition.Offset)
	case <-ctx.Done():
		return 0, fmt.Errorf("producing: %w", ctx.Err())
	}
	if err := w.producer.CommitTransaction(ctx); err != nil {
		w.finish = w.producer.CommitTransaction
		return 0, fmt.Errorf("committing: %w", err)
	}
	w.finish = nil
	return offset, nil
}

// settle brings to an end what is open on the producer, refusing appends between
// its attempts. It returns nil, ctx's error, or why the producer is of no more use.
func (w *writer) settle(ctx context.Context) error {
	if w.finish == nil {
		return nil
	}
	return w.persist(ctx, "settling a transaction of the registry", w.tryFinish, w.refuse)
}

func (w *writer) tryFinish(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, w.step)
	defer cancel()
	err := w.finish(ctx)
	if k, ok := errors.AsType[kafka.Error](err); ok && k.TxnRequiresAbort() {
		w.finish = w.producer.AbortTransaction
		err = w.finish(ctx)
	}
	if err == nil {
		w.finish = nil
		return nil
	}
	if k, ok := errors.AsType[kafka.Error](err); ok && k.IsRetriable() && !k.IsFatal() {
		return err
	}
	return fatal{w.judge(err)}
}

// judge makes ErrFenced of an error by which the broker says that the producer
// has a successor. It says the same of a producer whose transaction it has timed
// out, which takes an absence of ten minutes in the midst of a write.
func (w *writer) judge(err error) error {
	for _, e := range []error{err, w.producer.GetFatalError()} {
		k, ok := errors.AsType[kafka.Error](e)
		if !ok {
			continue
		}
		switch k.Code() {
		case kafka.ErrFenced, kafka.ErrProducerFenced, kafka.ErrInvalidProducerEpoch:
			return fmt.Errorf("%w: %w", webhooks.ErrFenced, err)
		}
	}
	return err
}
