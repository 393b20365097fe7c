package groupmanager

import (
	"context"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"

	"github.com/kpush/kpush/webhooks/delivery"
)

// job is one request to make, or one delivery to write to the dead letter topic.
type job struct {
	o       *outgoing
	attempt delivery.Attempt
	dead    *deadLetter // set: write it instead of sending
	work    *processing // the trace of it; nil when nothing is traced
}

// done is what came of a job.
type done struct {
	job    job
	result delivery.Result
	err    error // of a dead-lettering
}

// senders are the goroutines that wait for receivers, so that the partition
// never does. They are started when they are first needed, at most max of them,
// and stay: their stacks have grown to what net/http needs.
type senders struct {
	client deliverer
	dead   deadLetters
	ctx    context.Context // cut when the drain is over
	max    int
	logger *slog.Logger

	jobs    chan job
	results chan done // has room for every job that can be under way
	started int       // owned by the partition
	closed  bool      // owned by the partition
	running sync.WaitGroup
}

func newSenders(ctx context.Context, client deliverer, dead deadLetters, max int, logger *slog.Logger) *senders {
	return &senders{
		client: client, dead: dead, ctx: ctx, max: max, logger: logger,
		jobs: make(chan job), results: make(chan done, max),
	}
}

// do hands a job to an idle sender. The partition calls it, with at most max jobs under way.
func (s *senders) do(j job) {
	select {
	case s.jobs <- j:
		return
	default:
	}
	if s.started < s.max {
		s.started++
		s.running.Go(s.run)
	}
	s.jobs <- j
}

func (s *senders) run() {
	for j := range s.jobs {
		s.results <- s.work(j)
	}
}

// work does a job. If it panics, the attempt has failed and is made again.
func (s *senders) work(j job) (d done) {
	d.job = j
	defer func() {
		if v := recover(); v != nil {
			s.logger.Error("a delivery panicked", "panic", v, "delivery_id", j.o.id, "stack", string(debug.Stack()))
			d.result, d.err = delivery.Result{Code: codeInternal, At: time.Now()}, errPanicked
		}
	}()
	if j.dead != nil {
		d.err = s.dead.Write(s.ctx, *j.dead)
		return d
	}
	d.result = s.client.Send(j.work.context(s.ctx), j.o.msg, j.attempt)
	j.work.end(d.result)
	return d
}

// close ends the senders and waits for them. If a job is still under way, ctx has
// been cut; its result is dropped. Closing again does nothing.
func (s *senders) close() {
	if !s.closed {
		s.closed = true
		close(s.jobs)
	}
	s.running.Wait()
}
