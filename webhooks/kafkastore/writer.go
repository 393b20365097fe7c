package kafkastore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/confluentinc/confluent-kafka-go/v2/kafka"

	"github.com/kpush/kpush/webhooks"
)

// appendRequest is one call of Append.
type appendRequest struct {
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
	w := l.writer.Load()
	if w == nil {
		return 0, webhooks.ErrNotLeader
	}
	reply := make(chan appendResult, 1)
	select {
	case w.appends <- appendRequest{key, value, reply}:
	case <-w.over:
		return 0, webhooks.ErrNotLeader
	case <-ctx.Done():
		return 0, unavailable(ctx.Err())
	}
	select {
	case r := <-reply:
		return r.offset, r.err
	case <-ctx.Done():
		return 0, unavailable(ctx.Err())
	}
}

func unavailable(err error) error { return fmt.Errorf("%w: %w", webhooks.ErrUnavailable, err) }

const (
	// stepTimeout bounds one step of a transaction at the broker. A step that runs
	// out of it is repeated.
	stepTimeout = 10 * time.Second

	// lastAppend is how long the append that is under way when a leadership ends
	// may still take.
	lastAppend = time.Second
)

// writer is one leadership: a producer and what is asked of it. Lead's goroutine
// owns it.
//
// It never gets another producer: a transaction of open fate is brought to its
// end, however long the broker is away, before the next begins. A new producer
// takes the registry over anew, and who leads is not for the writer to decide.
type writer struct {
	*Log
	producer *producer
	appends  chan appendRequest // Append → writer
	over     chan struct{}      // closed when no append is served any more

	finish func(context.Context) error // ends a transaction of open fate; nil if there is none
}

// Lead implements webhooks.Log. InitTransactions fences the leader before and ends
// what it has left open: a commit that was answered before its markers were in the
// topic is carried out, any other transaction is aborted. When ctx ends while the
// broker is away, what is open here is left to the next leader in the same way.
func (l *Log) Lead(ctx context.Context) error {
	p, err := l.newProducer(ctx, l.cfg.Kafka.TransactionalProducer(l.cfg.Topic))
	if err != nil {
		return err
	}
	defer p.close()
	w := &writer{Log: l, producer: p, appends: make(chan appendRequest), over: make(chan struct{}), finish: p.InitTransactions}
	l.writer.Store(w)
	defer close(w.over)
	defer l.writer.Store(nil)
	if err = w.settle(ctx); err == nil {
		l.cfg.Logger.Info("this process leads the registry", "topic", l.cfg.Topic)
		err = w.serve(ctx)
	}
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// serve returns ctx's error, or why the producer is of no more use.
func (w *writer) serve(ctx context.Context) error {
	working, cut := context.WithCancel(context.WithoutCancel(ctx))
	defer cut()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(lastAppend, cut) })()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case a := <-w.appends:
			offset, err := w.transact(working, a)
			a.reply <- appendResult{offset, err}
			if err == nil {
				continue
			}
			w.cfg.Logger.Warn("a write to the registry failed", "topic", w.cfg.Topic, "key", a.key, "error", err)
			if err := w.settle(ctx); err != nil {
				return err
			}
		}
	}
}

// transact writes one record in a transaction of its own. Errors are those of
// Append; then w.finish is set where the transaction is still open.
func (w *writer) transact(ctx context.Context, a appendRequest) (offset int64, err error) {
	offset, err = w.produce(ctx, a)
	if err != nil {
		err = w.judge(err)
		if errors.Is(err, webhooks.ErrFenced) || ctx.Err() != nil {
			return 0, fmt.Errorf("%w: %w", webhooks.ErrNotLeader, err) // nobody will commit it
		}
		return 0, unavailable(err)
	}
	// Once a commit has been asked for it may have been made, also by one that is
	// fenced: its successor carries out what it finds decided.
	w.finish = w.producer.CommitTransaction
	if err := w.producer.call(ctx, w.step, w.finish); err != nil {
		return 0, unavailable(fmt.Errorf("committing: %w", w.judge(err)))
	}
	w.finish = nil
	return offset, nil
}

// produce begins a transaction with one record.
func (w *writer) produce(ctx context.Context, a appendRequest) (offset int64, err error) {
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
	ctx, cancel := context.WithTimeout(ctx, w.step)
	defer cancel()
	select {
	case e := <-report:
		m, ok := e.(*kafka.Message)
		if !ok {
			return 0, fmt.Errorf("producing: the client reported %v", e)
		}
		if err := m.TopicPartition.Error; err != nil {
			return 0, fmt.Errorf("producing: %w", err)
		}
		return int64(m.TopicPartition.Offset), nil
	case <-ctx.Done():
		return 0, fmt.Errorf("producing: %w", ctx.Err())
	}
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
	err := w.producer.call(ctx, w.step, w.finish)
	if k, ok := errors.AsType[kafka.Error](err); ok && k.TxnRequiresAbort() {
		w.finish = w.producer.AbortTransaction
		err = w.producer.call(ctx, w.step, w.finish)
	}
	if err == nil {
		w.finish = nil
		return nil
	}
	err = w.judge(err)
	if k, ok := errors.AsType[kafka.Error](err); ok && k.IsRetriable() && !k.IsFatal() && !errors.Is(err, webhooks.ErrFenced) {
		return err
	}
	return fatal{err}
}

// refuse answers appends with the reason why there are none now, until ctx ends
// or the time is over.
func (w *writer) refuse(ctx context.Context, d time.Duration, reason error) error {
	over := time.NewTimer(d)
	defer over.Stop()
	for {
		select {
		case a := <-w.appends:
			a.reply <- appendResult{0, unavailable(reason)}
		case <-over.C:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// judge makes ErrFenced of an error by which the broker says that the producer
// has a successor. It says the same of a producer whose transaction it has timed
// out, which takes an absence of ten minutes in the midst of a write: such a
// process, too, leads again by leading anew.
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
