// Command example is a small service that takes kpush deliveries: it verifies, drops
// what it has seen, processes small deliveries at once and large ones later.
//
//	KPUSH_SECRET     the webhook's secret (whsec_...); two, parted by a space, while it
//	                 is rotated
//	KPUSH_GATEWAY    base URL of the gateway, such as http://127.0.0.1:8080
//	LISTEN           default 127.0.0.1:8083
//
// Its processing is a line on standard output.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/kpush/kpush/receiver"
)

const (
	defaultListen = "127.0.0.1:8083"

	// small is how many records are processed while the gateway waits.
	small = 10

	// maxQueued bounds the deliveries that are to be processed later.
	maxQueued = 16

	// tries is how often an ack is sent again while its partition has no owner.
	tries = 5

	readHeaderTimeout = 10 * time.Second
	shutdownTimeout   = 20 * time.Second
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Getenv, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "example:", err)
		os.Exit(1)
	}
}

// run serves until ctx ends, and then finishes what it has taken.
func run(ctx context.Context, getenv func(string) string, out io.Writer) error {
	s, err := newService(getenv("KPUSH_GATEWAY"), out)
	if err != nil {
		return err
	}
	secrets, err := receiver.ParseSecrets(strings.Fields(getenv("KPUSH_SECRET"))...)
	if err != nil {
		return fmt.Errorf("KPUSH_SECRET: %w", err)
	}
	address := getenv("LISTEN")
	if address == "" {
		address = defaultListen
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	server := &http.Server{Handler: s.handler(secrets), ReadHeaderTimeout: readHeaderTimeout}
	fmt.Fprintf(out, "taking deliveries at http://%s\n", listener.Addr())

	var working sync.WaitGroup
	working.Go(s.work)
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	select {
	case err = <-served:
	case <-ctx.Done():
		within, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
		defer cancel()
		err = server.Shutdown(within)
		if stopped := <-served; !errors.Is(stopped, http.ErrServerClosed) {
			err = errors.Join(err, stopped)
		}
	}
	s.close() // nothing is delivered any more
	working.Wait()
	s.acker.CloseIdleConnections()
	return err
}

// service processes records.
type service struct {
	acker  *receiver.Acker
	memory *receiver.Memory
	out    io.Writer

	mu     sync.Mutex
	closed bool
	queue  chan *receiver.Delivery // handler -> work
}

func newService(gateway string, out io.Writer) (*service, error) {
	acker, err := receiver.NewAcker(receiver.AckerConfig{Gateway: gateway, Retries: tries})
	if err != nil {
		return nil, fmt.Errorf("KPUSH_GATEWAY: %w", err)
	}
	return &service{acker: acker, memory: receiver.NewMemory(0), out: out, queue: make(chan *receiver.Delivery, maxQueued)}, nil
}

func (s *service) handler(secrets receiver.Secrets) http.Handler {
	return &receiver.Handler{Secrets: secrets, Dedupe: s.memory, Deliver: s.deliver}
}

// deliver takes one delivery. Records that failed come again, and those before them
// do not.
func (s *service) deliver(_ context.Context, d *receiver.Delivery) (receiver.Ack, error) {
	if len(d.Records) > small {
		return s.enqueue(d), nil
	}
	n, err := s.process(d)
	switch {
	case err == nil:
		return receiver.Ack{}, nil
	case n == 0:
		return receiver.Ack{}, err // answered 500: again, after the webhook's backoff
	}
	return receiver.AckUpTo(d.Records[n-1].Offset), nil
}

// enqueue answers 202, unless there is more to do than can be done.
func (s *service) enqueue(d *receiver.Delivery) receiver.Ack {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return receiver.Nack(time.Second, "shutting down")
	}
	select {
	case s.queue <- d:
		return receiver.Later()
	default:
		return receiver.Nack(time.Second, "busy")
	}
}

// work processes what was put off, and acks it. It returns after close.
func (s *service) work() {
	for d := range s.queue {
		n, err := s.process(d)
		s.memory.Processed(d, d.Records[:n]) // of Later the handler records nothing
		ack := receiver.AckAll()
		switch {
		case err != nil && n == 0:
			ack = receiver.Nack(time.Second, "not processed")
		case err != nil:
			ack = receiver.AckUpTo(d.Records[n-1].Offset)
		}
		receipt, err := s.acker.Send(context.Background(), d.Ticket, ack) // bounded by the acker
		switch {
		case errors.Is(err, receiver.ErrGenerationStale):
			// Another owner sends it again, and the memory knows what was done.
		case err != nil:
			slog.Error("an ack did not go through; the delivery comes again", "delivery", d.ID, "error", err)
		default:
			fmt.Fprintf(s.out, "%s/%d@%d..%d: %s\n", d.Topic, d.Partition, d.FirstOffset, d.LastOffset, receipt.Result)
		}
	}
}

// close lets work end when the queue is empty.
func (s *service) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	close(s.queue)
}

// process processes records in order until one fails, and returns how many went well.
func (s *service) process(d *receiver.Delivery) (int, error) {
	for i, r := range d.Records {
		if name, ok := r.Header("fail"); ok {
			return i, fmt.Errorf("offset %d: told to fail by %q", r.Offset, name)
		}
		value := string(r.Value)
		if r.Tombstone() {
			value = "deleted"
		}
		if _, err := fmt.Fprintf(s.out, "%s/%d@%d: %q = %q\n", d.Topic, d.Partition, r.Offset, r.Key, value); err != nil {
			return i, err
		}
	}
	return len(d.Records), nil
}
