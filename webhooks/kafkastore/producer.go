package kafkastore

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/confluentinc/confluent-kafka-go/v2/kafka"
)

// producer is a producer of the Kafka library whose logs and events are read.
type producer struct {
	*kafka.Producer
	log       *Log
	followers sync.WaitGroup // they read logs and events
	calls     sync.WaitGroup // blocking calls under way
}

func (l *Log) newProducer(ctx context.Context, conf kafka.ConfigMap) (*producer, error) {
	made, err := kafka.NewProducer(&conf)
	if err != nil {
		return nil, fatal{fmt.Errorf("making a producer: %w", err)}
	}
	p := &producer{Producer: made, log: l}
	p.followers.Go(func() { l.cfg.Kafka.Logs(context.WithoutCancel(ctx), p.Logs()) })
	p.followers.Go(func() {
		for range p.Events() { // errors, which are logged too; unread they would fill its buffer
		}
	})
	return p, nil
}

// call makes a call that the library blocks in for up to d, whatever becomes of a
// context. When ctx ends it is left behind: then nothing else is to be done with
// the producer but to close it.
func (p *producer) call(ctx context.Context, d time.Duration, f func(context.Context) error) error {
	returned := make(chan error, 1)
	p.calls.Go(func() {
		timed, cancel := context.WithTimeout(context.WithoutCancel(ctx), d)
		defer cancel()
		returned <- f(timed)
	})
	select {
	case err := <-returned:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// close closes the producer once no call is under way, and returns in bounded time.
func (p *producer) close() {
	p.log.closeClient(p.String(), func() {
		p.calls.Wait()
		p.Close()
		p.followers.Wait()
	})
}
