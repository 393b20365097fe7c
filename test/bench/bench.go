package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kpush/kpush/test/bench/meter"
)

// bench is one run of the whole: a Kafka, a receiver, and a report that fills.
type bench struct {
	options
	bin    string // folder of the binaries
	out    io.Writer
	report *report

	stopKafka func()
	client    *kgo.Client
	admin     *kadm.Client
	receiver  *receiver
	topics    int // made so far, for their names
}

// open starts what the subjects need.
func open(ctx context.Context, o options, bin string, out io.Writer) (*bench, error) {
	b := &bench{options: o, bin: bin, out: out, report: newReport(bin, o.rounds)}
	if err := b.begin(ctx); err != nil {
		b.close()
		return nil, err
	}
	return b, nil
}

func (b *bench) begin(ctx context.Context) (err error) {
	if b.brokers == "" {
		if b.brokers, b.stopKafka, err = startKafka(ctx); err != nil {
			return err
		}
	}
	b.client, err = kgo.NewClient(kgo.SeedBrokers(b.brokers), kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.ProducerBatchCompression(kgo.NoCompression()), kgo.ProducerLinger(0))
	if err != nil {
		return fmt.Errorf("connecting to Kafka: %w", err)
	}
	b.admin = kadm.NewClient(b.client)
	b.receiver, err = startReceiver(ctx, filepath.Join(b.bin, "receiver"))
	return err
}

func (b *bench) close() {
	if b.receiver != nil {
		b.receiver.close()
	}
	if b.client != nil {
		b.client.Close()
	}
	if b.stopKafka != nil {
		b.stopKafka()
	}
}

// topic makes an empty topic.
func (b *bench) topic(ctx context.Context, name string) (string, error) {
	b.topics++
	topic := fmt.Sprintf("bench-%s-%d-%d", name, time.Now().Unix(), b.topics)
	if _, err := b.admin.CreateTopic(ctx, partitions, 1, nil, topic); err != nil {
		return "", fmt.Errorf("creating topic %s: %w", topic, err)
	}
	return topic, nil
}

// preload makes a topic of records with values of that size.
func (b *bench) preload(ctx context.Context, name string, size int, records int64, value func(size int) []byte) (string, error) {
	topic, err := b.topic(ctx, name)
	if err != nil {
		return "", err
	}
	fmt.Fprintf(b.out, "%s: producing %d records of %d bytes\n", name, records, size)
	p := producer{client: b.client, topic: topic}
	for n := range records {
		p.send(ctx, int32(n%partitions), value(size))
	}
	return topic, p.wait()
}

// document is a JSON value: an order with lines enough to fill the size.
func document(size int) []byte {
	value := fmt.Appendf(nil, `{"order":%d,"lines":[`, rand.Uint32())
	for len(value) < size-80 {
		value = fmt.Appendf(value, `{"article":"a-%08d","count":%d,"price":%d.%02d},`, rand.IntN(1e8), rand.IntN(100), rand.IntN(1000), rand.IntN(100))
	}
	value = append(value, `{"note":"`...)
	for len(value) < size-4 {
		value = append(value, 'x')
	}
	return append(value, `"}]}`...)
}

// noise is a value of random bytes, neither JSON nor text, so that every contender
// has to encode it as base64. The first is never part of a text.
func noise(size int) []byte {
	value := make([]byte, size)
	for i := 0; i+8 <= size; i += 8 {
		binary.LittleEndian.PutUint64(value[i:], rand.Uint64())
	}
	value[0] = 0xff
	return value
}

// pace produces records at the latency case's rate, each with the time it was produced at.
func (b *bench) pace(ctx context.Context, topic string, records int64) error {
	const size = 1024
	p := producer{client: b.client, topic: topic}
	start := time.Now()
	for n := range records {
		if wait := time.Until(start.Add(time.Duration(n) * time.Second / latencyRate)); wait > 0 {
			time.Sleep(wait)
		}
		value := noise(size)
		copy(value, meter.Stamp[:])
		binary.BigEndian.PutUint64(value[len(meter.Stamp):], uint64(time.Now().UnixNano()))
		p.send(ctx, int32(n%partitions), value)
	}
	return p.wait()
}

// producer sends records to one topic and remembers the first failure.
type producer struct {
	client *kgo.Client
	topic  string

	pending sync.WaitGroup
	mu      sync.Mutex
	failed  error
}

func (p *producer) send(ctx context.Context, partition int32, value []byte) {
	p.pending.Add(1)
	p.client.Produce(ctx, &kgo.Record{Topic: p.topic, Partition: partition, Value: value}, func(_ *kgo.Record, err error) {
		defer p.pending.Done()
		p.mu.Lock()
		defer p.mu.Unlock()
		p.failed = errors.Join(p.failed, err)
	})
}

func (p *producer) wait() error {
	p.pending.Wait()
	if p.failed != nil {
		return fmt.Errorf("producing to %s: %w", p.topic, p.failed)
	}
	return nil
}

// receiver is the receiver's process.
type receiver struct {
	cmd       *exec.Cmd
	in        io.WriteCloser
	orders    *json.Encoder
	listening meter.Listening
	lines     chan meter.Line
}

var errReceiver = errors.New("the receiver ended")

func startReceiver(ctx context.Context, path string) (*receiver, error) {
	r := &receiver{cmd: exec.CommandContext(ctx, path), lines: make(chan meter.Line)}
	out, err := r.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if r.in, err = r.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	r.orders = json.NewEncoder(r.in)
	if err := r.cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting the receiver: %w", err)
	}
	go func() {
		defer close(r.lines)
		for lines := json.NewDecoder(bufio.NewReader(out)); ; {
			var l meter.Line
			if lines.Decode(&l) != nil {
				return
			}
			r.lines <- l
		}
	}()
	l, err := r.line(ctx, time.Minute)
	if err == nil && l.Listening == nil {
		err = fmt.Errorf("the receiver does not say where it listens: %+v", l)
	}
	if err == nil {
		r.listening = *l.Listening
	}
	return r, err
}

// line waits for the receiver to say something.
func (r *receiver) line(ctx context.Context, patience time.Duration) (meter.Line, error) {
	select {
	case l, ok := <-r.lines:
		if !ok {
			return l, errReceiver
		}
		return l, nil
	case <-time.After(patience):
		return meter.Line{}, fmt.Errorf("nothing from the receiver in %v", patience)
	case <-ctx.Done():
		return meter.Line{}, ctx.Err()
	}
}

// order begins a run.
func (r *receiver) order(ctx context.Context, o meter.Order) error {
	if err := r.orders.Encode(meter.Message{Order: &o}); err != nil {
		return fmt.Errorf("ordering: %w", err)
	}
	l, err := r.line(ctx, time.Minute)
	if err == nil && !l.Ready {
		err = fmt.Errorf("the receiver is not ready: %+v", l)
	}
	return err
}

// delay changes the pause before answers.
func (r *receiver) delay(d time.Duration) error {
	return r.orders.Encode(meter.Message{Delay: &meter.Delay{Ms: int(d.Milliseconds())}})
}

// result waits for the end of a run.
func (r *receiver) result(ctx context.Context, patience time.Duration) (*meter.Result, error) {
	l, err := r.line(ctx, patience)
	if err == nil && l.Result == nil {
		err = fmt.Errorf("want a result of the receiver, got %+v", l)
	}
	return l.Result, err
}

func (r *receiver) close() {
	r.in.Close()
	for range r.lines {
	}
	r.cmd.Wait()
}
