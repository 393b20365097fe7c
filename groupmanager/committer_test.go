package groupmanager

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/confluentinc/confluent-kafka-go/v2/kafka"
	"go.opentelemetry.io/otel/metric/noop"
)

// broker is a group coordinator that keeps what was committed.
type broker struct {
	generation atomic.Int32
	hold       chan struct{} // when set, a commit waits for it

	mu      sync.Mutex
	commits []map[topicPartition]position
	fail    error
}

func (b *broker) commit(offsets map[topicPartition]position) (map[topicPartition]bool, error) {
	b.mu.Lock()
	b.commits = append(b.commits, maps.Clone(offsets))
	err := b.fail
	b.mu.Unlock()
	if b.hold != nil {
		<-b.hold
	}
	if err != nil {
		return nil, err
	}
	confirmed := make(map[topicPartition]bool)
	for tp := range offsets {
		confirmed[tp] = true
	}
	return confirmed, nil
}

func (b *broker) seen() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.commits)
}

// desk is a running committer with one live tenure.
func desk(t *testing.T, b *broker) (*committer, *tenure) {
	t.Helper()
	metrics, err := newInstruments(noop.NewMeterProvider().Meter(""), "w")
	if err != nil {
		t.Fatal(err)
	}
	b.generation.Store(7)
	c := newCommitter(b.commit, b.generation.Load, metrics, slog.New(slog.DiscardHandler))
	tn := newTenure(topicPartition{"orders", 0}, [16]byte{}, 7, position{})
	c.begin(tn)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { c.run(ctx); close(done) }()
	t.Cleanup(func() { cancel(); <-done })
	return c, tn
}

func TestWhatBecomesSafeIsCommittedWithinTheInterval(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := &broker{}
		c, tn := desk(t, b)
		for n := range int64(50) {
			c.publish(tn, n+1)
			time.Sleep(time.Millisecond)
		}
		time.Sleep(commitInterval)
		synctest.Wait()
		if got := b.seen(); got != 1 {
			t.Errorf("%d commits for 50 steps within the interval, want 1", got)
		}
		if got := c.committed(tn); got != 50 {
			t.Errorf("committed %d, want 50", got)
		}
	})
}

func TestManyAcksShareACommit(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := &broker{hold: make(chan struct{})}
		c, tn := desk(t, b)
		var acks sync.WaitGroup
		for n := range int64(1000) {
			c.publish(tn, n+1)
			acks.Go(func() {
				if got, err := c.await(t.Context(), tn, n+1); err != nil || got < n+1 {
					t.Errorf("ack of %d answered with %d, %v", n, got, err)
				}
			})
			if n == 0 {
				synctest.Wait() // the first commit is under way
			}
		}
		synctest.Wait()
		close(b.hold)
		acks.Wait()
		if got := b.seen(); got != 2 {
			t.Errorf("%d commits, want 2: the one under way and one for all that came meanwhile", got)
		}
	})
}

func TestNothingIsCommittedWithoutAGeneration(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := &broker{}
		c, tn := desk(t, b)
		b.generation.Store(-1)
		c.publish(tn, 5)
		time.Sleep(time.Minute)
		if got := b.seen(); got != 0 {
			t.Errorf("%d commits with generation -1, want none", got)
		}
		if err := c.finish([]*tenure{tn}, time.Now().Add(time.Second)); !errors.Is(err, errNotInGroup) {
			t.Errorf("finish: %v, want %v", err, errNotInGroup)
		}
	})
}

func TestACommitThatFailsIsRepeated(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := &broker{fail: errors.New("coordinator not available")}
		c, tn := desk(t, b)
		c.publish(tn, 5)
		time.Sleep(5 * time.Second)
		b.mu.Lock()
		b.fail = nil
		b.mu.Unlock()
		time.Sleep(commitRetry + commitInterval)
		synctest.Wait()
		if got := c.committed(tn); got != 5 {
			t.Errorf("committed %d after the broker healed, want 5", got)
		}
	})
}

func TestFinishWaitsForTheCommitUnderWayAndNoneFollows(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := &broker{hold: make(chan struct{})}
		c, tn := desk(t, b)
		c.publish(tn, 5)
		time.Sleep(2 * commitInterval) // 5 is under way
		c.publish(tn, 9)
		finished := make(chan error, 1)
		go func() { finished <- c.finish([]*tenure{tn}, time.Now().Add(time.Minute)) }()
		synctest.Wait()
		select {
		case err := <-finished:
			t.Fatalf("finish returned %v while a commit was under way", err)
		default:
		}
		close(b.hold)
		if err := <-finished; err != nil {
			t.Fatal(err)
		}
		if got := c.committed(tn); got != 9 {
			t.Errorf("committed %d, want 9", got)
		}
		before := b.seen()
		c.publish(tn, 20) // a zombie
		time.Sleep(time.Minute)
		if got := b.seen(); got != before {
			t.Errorf("%d commits for a tenure that has ended", got-before)
		}
	})
}

func TestFinishEndsAtItsDeadline(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := &broker{hold: make(chan struct{})}
		c, tn := desk(t, b)
		c.publish(tn, 5)
		time.Sleep(2 * commitInterval)
		start := time.Now()
		if err := c.finish([]*tenure{tn}, start.Add(3*time.Second)); !errors.Is(err, errCommitHung) {
			t.Errorf("finish: %v, want %v", err, errCommitHung)
		}
		if took := time.Since(start); took != 3*time.Second {
			t.Errorf("took %v, want its deadline", took)
		}
		close(b.hold)
	})
}

func TestALostTenureCommitsNothingAndItsAcksAreRefused(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := &broker{fail: errors.New("rebalance in progress")}
		c, tn := desk(t, b)
		c.publish(tn, 5)
		refused := make(chan error, 1)
		go func() { _, err := c.await(t.Context(), tn, 5); refused <- err }()
		synctest.Wait()
		c.drop([]*tenure{tn})
		if err := <-refused; !errors.Is(err, ErrNoOwner) {
			t.Errorf("ack: %v, want %v", err, ErrNoOwner)
		}
		before := b.seen()
		time.Sleep(time.Minute)
		if got := b.seen(); got != before {
			t.Errorf("%d commits after the loss", got-before)
		}
	})
}

func TestTheSafeOffsetNeverGoesBack(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := &broker{}
		c, tn := desk(t, b)
		c.publish(tn, 9)
		c.publish(tn, 4)
		time.Sleep(time.Second)
		if got := c.committed(tn); got != 9 {
			t.Errorf("committed %d, want 9", got)
		}
	})
}

func TestDeliveryStateAloneIsCommitted(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := &broker{}
		c, tn := desk(t, b)
		c.note(tn, &note{at: 0, text: "k1;a=2"})
		time.Sleep(2 * commitInterval)
		synctest.Wait()
		c.note(tn, &note{at: 0, text: "k1;a=2"}) // nothing new
		time.Sleep(2 * commitInterval)
		synctest.Wait()
		b.mu.Lock()
		defer b.mu.Unlock()
		if len(b.commits) != 1 || b.commits[0][tn.topicPartition] != (position{0, "k1;a=2"}) {
			t.Errorf("commits %+v, want one of offset 0 with the attempts", b.commits)
		}
	})
}

func TestNothingIsCommittedInARefusedGeneration(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := &broker{fail: kafka.NewError(kafka.ErrIllegalGeneration, "", false)}
		c, tn := desk(t, b)
		c.publish(tn, 5)
		time.Sleep(time.Minute)
		if got := b.seen(); got != 1 {
			t.Errorf("%d commits in the refused generation, want 1", got)
		}
		b.mu.Lock()
		b.fail = nil
		b.mu.Unlock()
		b.generation.Store(8)
		time.Sleep(time.Second)
		synctest.Wait()
		if got := c.committed(tn); got != 5 {
			t.Errorf("committed %d in the next generation, want 5", got)
		}
	})
}
