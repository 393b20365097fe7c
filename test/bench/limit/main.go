// Command limit is the least that a push gateway can be: it reads partitions in
// batches from their own queues, appends the same envelope by hand and POSTs it
// with net/http and a few headers. It keeps no books, takes no acks and commits
// nothing. What it costs a record is the floor that the gateway is measured
// against.
//
// It connects, prints "ready", begins at a line on its standard input, and at
// the end of that input prints how often it has allocated and ends.
package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"runtime"
	"strings"
	"time"

	"github.com/confluentinc/confluent-kafka-go/v2/kafka"
	"golang.org/x/sync/errgroup"

	"github.com/kpush/kpush/internal/kafkaconf"
	"github.com/kpush/kpush/internal/partitionqueue"
	"github.com/kpush/kpush/webhooks"
)

func main() {
	if err := run(os.Args[1:], os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "limit:", err)
		os.Exit(1)
	}
}

// settings of a run.
type settings struct {
	brokers, topic, url string
	partitions, batch   int
}

func run(args []string, in io.Reader, out io.Writer) error {
	var s settings
	flags := flag.NewFlagSet("limit", flag.ContinueOnError)
	flags.StringVar(&s.brokers, "brokers", "127.0.0.1:9092", "host:port, comma between them")
	flags.StringVar(&s.topic, "topic", "", "what to read, from its beginning")
	flags.IntVar(&s.partitions, "partitions", 8, "of the topic")
	flags.IntVar(&s.batch, "batch", 100, "records of a request, at most")
	flags.StringVar(&s.url, "url", "", "where to POST")
	if err := flags.Parse(args); err != nil {
		return err
	}
	consumer, queues, err := open(s)
	if err != nil {
		return err
	}
	fmt.Fprintln(out, "ready")
	lines := bufio.NewReader(in)
	if _, err := lines.ReadString('\n'); err != nil {
		return fmt.Errorf("waiting for the start: %w", err)
	}
	before := mallocs()
	ctx, stop := context.WithCancel(context.Background())
	pipes, err := begin(ctx, s, consumer, queues)
	if err != nil {
		stop()
		return err
	}
	io.Copy(io.Discard, lines)
	fmt.Fprintln(out, mallocs()-before)
	stop()
	err = pipes.Wait()
	queues.Close()
	return errors.Join(err, consumer.Close())
}

// open connects with the settings that the gateway has by default.
func open(s settings) (*kafka.Consumer, *partitionqueue.Queues, error) {
	webhook := webhooks.Default()
	webhook.GroupID = "limit"
	conf := kafkaconf.Config{Brokers: strings.Split(s.brokers, ",")}.Consumer(webhook)
	delete(conf, "go.logs.channel.enable")
	consumer, err := kafka.NewConsumer(&conf)
	if err != nil {
		return nil, nil, fmt.Errorf("making the consumer: %w", err)
	}
	queues, err := partitionqueue.Open(consumer)
	if err != nil {
		return nil, nil, fmt.Errorf("opening the partition queues: %w", err)
	}
	return consumer, queues, nil
}

// pollPause is how long the poll loop looks for events: errors only, since
// records never come that way.
const pollPause = 100 * time.Millisecond

// begin assigns all partitions and runs a pipe for each.
func begin(ctx context.Context, s settings, consumer *kafka.Consumer, queues *partitionqueue.Queues) (*errgroup.Group, error) {
	client := &http.Client{Transport: &http.Transport{
		MaxIdleConns: s.partitions, MaxIdleConnsPerHost: s.partitions, DisableCompression: true,
	}}
	group, ctx := errgroup.WithContext(ctx)
	var assignment []kafka.TopicPartition
	for p := range int32(s.partitions) {
		queue, err := queues.Split(s.topic, p)
		if err != nil {
			return nil, fmt.Errorf("splitting off partition %d: %w", p, err)
		}
		assignment = append(assignment, kafka.TopicPartition{Topic: &s.topic, Partition: p, Offset: kafka.OffsetBeginning})
		pipe := &pipe{settings: s, partition: p, queue: queue, client: client}
		group.Go(func() error {
			defer queue.Close()
			return pipe.run(ctx)
		})
	}
	if err := consumer.Assign(assignment); err != nil {
		return nil, fmt.Errorf("assigning: %w", err)
	}
	group.Go(func() error {
		for ctx.Err() == nil {
			if e, ok := consumer.Poll(int(pollPause.Milliseconds())).(kafka.Error); ok && e.IsFatal() {
				return e
			}
		}
		return nil
	})
	return group, nil
}

// mallocs is the number of objects allocated so far.
func mallocs() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.Mallocs
}
