package kafkastore

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/confluentinc/confluent-kafka-go/v2/kafka"

	"github.com/kpush/kpush/internal/kafkaconf"
	"github.com/kpush/kpush/webhooks"
)

// errLost says that the topic does not hold what was read of it any more.
var errLost = errors.New("the registry's topic was deleted, emptied or made anew while it was in use: restart to read what it holds now")

// reader applies the topic's records, from the first to the one that comes next.
// It belongs to one goroutine.
type reader struct {
	*Log
	apply    func(key string, value []byte, offset int64)
	caughtUp func() // nil once called

	next    int64 // offset to go on at
	started bool  // next is known
}

// pollInterval is how soon the reader notices that ctx has ended.
const pollInterval = 100 * time.Millisecond

// run reads until ctx ends or its consumer fails; it can then be called again.
func (r *reader) run(ctx context.Context) error {
	conf := r.consumerConfig()
	consumer, err := kafka.NewConsumer(&conf)
	if err != nil {
		return fatal{fmt.Errorf("making a consumer: %w", err)}
	}
	var logs sync.WaitGroup
	logs.Go(func() { r.cfg.Kafka.Logs(context.WithoutCancel(ctx), consumer.Logs()) })
	defer r.closeClient(consumer.String(), func() {
		consumer.Close()
		logs.Wait()
	})

	from := kafka.OffsetBeginning
	if r.started {
		from = kafka.Offset(r.next)
	}
	if err := consumer.Assign([]kafka.TopicPartition{{Topic: &r.cfg.Topic, Partition: 0, Offset: from}}); err != nil {
		return fmt.Errorf("assigning the partition: %w", err)
	}
	for ctx.Err() == nil {
		if err := r.take(consumer.Poll(int(pollInterval.Milliseconds()))); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// consumerConfig is that of a consumer outside of any group: the client wants a
// group's name, but nothing joins it and nothing is committed. It is told when it
// has reached the end, since markers and compaction leave holes in the offsets.
func (r *reader) consumerConfig() kafka.ConfigMap {
	w := webhooks.Default()
	w.GroupID = r.cfg.Topic + ".reader"
	shared := r.cfg.Kafka
	shared.GroupProtocol = kafkaconf.Classic
	conf := shared.Consumer(w)
	conf["enable.partition.eof"] = true
	return conf
}

func (r *reader) take(event kafka.Event) error {
	switch e := event.(type) {
	case *kafka.Message:
		if err := e.TopicPartition.Error; err != nil {
			return fmt.Errorf("reading a record: %w", err)
		}
		offset := int64(e.TopicPartition.Offset)
		r.apply(string(e.Key), e.Value, offset)
		r.next, r.started = offset+1, true
	case kafka.PartitionEOF:
		if r.caughtUp != nil {
			r.caughtUp()
			r.caughtUp = nil
		}
	case kafka.Error:
		switch reset := e.Code() == kafka.ErrAutoOffsetReset || e.Code() == kafka.ErrOffsetOutOfRange; {
		case reset && !r.started: // a topic that was just made is not known to every broker yet
			return fmt.Errorf("asking where the partition begins: %w", e)
		case reset:
			return fatal{errLost}
		case e.IsFatal() || e.Code() == kafka.ErrUnknownTopicOrPart:
			return fmt.Errorf("reading the partition: %w", e)
		}
		// Anything else the client heals by itself, and logs.
	}
	return nil
}
