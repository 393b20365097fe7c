package kafkastore

import (
	"context"
	"errors"
	"net"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/kpush/kpush/webhooks"
)

// errCut makes the broker close the connection instead of answering.
var errCut = errors.New("cut")

func TestAConnectionCutInATransactionIsHealed(t *testing.T) {
	t.Parallel()
	for name, request := range map[string]kmsg.Key{
		"adding the partition": kmsg.AddPartitionsToTxn, "producing": kmsg.Produce, "committing": kmsg.EndTxn,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cluster := startBroker(t)
			l := run(t, newLog(t, cluster.ListenAddrs()[0], "", nil))
			l.awaitCaughtUp(t)
			l.append(t, "a", "1")
			cut := make(chan struct{})
			cluster.ControlKey(int16(request), func(kmsg.Request) (kmsg.Response, error, bool) {
				close(cut)
				return nil, errCut, true // once: a control is dropped when it has handled a request
			})
			l.append(t, "a", "2")
			select {
			case <-cut:
			default:
				t.Fatal("the request was never made")
			}
			eventually(t, "a = 2 is read", func() bool { v, _ := l.get("a"); return v == "2" })
		})
	}
}

func TestAWriteThatIsRefusedIsAbortedAndTheNextGoesThrough(t *testing.T) {
	t.Parallel()
	tests := map[string]kfake.Fault{
		"adding the partition": {Keys: []kmsg.Key{kmsg.AddPartitionsToTxn}, Topic: DefaultTopic, Err: kerr.TopicAuthorizationFailed},
		"producing":            {Keys: []kmsg.Key{kmsg.Produce}, Topic: DefaultTopic, Err: kerr.RecordListTooLarge},
	}
	for name, fault := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cluster := startBroker(t)
			l := run(t, newLog(t, cluster.ListenAddrs()[0], "", nil))
			l.awaitCaughtUp(t)
			l.append(t, "a", "1")
			handle := cluster.Fault(fault)
			if _, err := l.Append(t.Context(), "a", []byte("2")); !errors.Is(err, webhooks.ErrUnavailable) {
				t.Errorf("Append: %v, want ErrUnavailable", err)
			}
			if handle.Hits() == 0 {
				t.Fatal("the request was never made")
			}
			eventually(t, "a write goes through", func() bool {
				_, err := l.Append(t.Context(), "b", []byte("3"))
				return err == nil
			})
			eventually(t, "b = 3 is read", func() bool { v, _ := l.get("b"); return v == "3" })
			if v, _ := l.get("a"); v != "1" {
				t.Errorf("a = %s, want 1: what was refused is not to be read", v)
			}
		})
	}
}

// A commit may have been made although nothing came back, so it must be asked for
// until there is an answer, never be turned into an abort.
func TestACommitWithoutAnAnswerIsMadeInTheEnd(t *testing.T) {
	t.Parallel()
	cluster := startBroker(t)
	l := newLog(t, cluster.ListenAddrs()[0], "", nil)
	l.step = time.Second
	r := run(t, l)
	r.awaitCaughtUp(t)
	var healed atomic.Bool
	cluster.ControlKey(int16(kmsg.EndTxn), func(kmsg.Request) (kmsg.Response, error, bool) {
		if healed.Load() {
			return nil, nil, false
		}
		cluster.KeepControl()
		return nil, errCut, true
	})
	if _, err := r.Append(t.Context(), "a", []byte("1")); !errors.Is(err, webhooks.ErrUnavailable) {
		t.Fatalf("Append: %v, want ErrUnavailable", err)
	}
	healed.Store(true)
	eventually(t, "a = 1 is read", func() bool { v, _ := r.get("a"); return v == "1" })
	eventually(t, "a write goes through", func() bool {
		_, err := r.Append(t.Context(), "b", []byte("2"))
		return err == nil
	})
}

func TestNothingIsReadBeforeTakingOver(t *testing.T) {
	t.Parallel()
	cluster := startBroker(t)
	var tries atomic.Int32
	var healed atomic.Bool
	cluster.ControlKey(int16(kmsg.InitProducerID), func(kmsg.Request) (kmsg.Response, error, bool) {
		tries.Add(1)
		if healed.Load() {
			return nil, nil, false
		}
		cluster.KeepControl()
		return nil, errCut, true
	})
	l := run(t, newLog(t, cluster.ListenAddrs()[0], "", nil))
	eventually(t, "it tries to take over", func() bool { return tries.Load() >= 3 })
	ctx, cancel := context.WithCancel(t.Context())
	other := reader{Log: newLog(t, cluster.ListenAddrs()[0], "", nil), caughtUp: cancel}
	if err := other.run(ctx); !errors.Is(err, context.Canceled) {
		t.Fatalf("a reader that waits for nobody: %v", err)
	}
	select {
	case <-l.caughtUp:
		t.Error("it was ready before it had taken over")
	default:
	}
	healed.Store(true)
	l.awaitCaughtUp(t)
}

func TestAReaderThatIsRunAgainGoesOnWhereItWas(t *testing.T) {
	t.Parallel()
	address := startBroker(t).ListenAddrs()[0]
	l := run(t, newLog(t, address, "", nil))
	l.awaitCaughtUp(t)
	var applied []string
	r := reader{Log: newLog(t, address, "", nil)}
	for _, value := range []string{"1", "2"} {
		l.append(t, "a", value)
		ctx, cancel := context.WithCancel(t.Context())
		r.apply = func(_ string, value []byte, _ int64) {
			applied = append(applied, string(value))
			cancel()
		}
		if err := r.run(ctx); !errors.Is(err, context.Canceled) {
			t.Fatalf("run: %v, want context.Canceled", err)
		}
	}
	if want := []string{"1", "2"}; !slices.Equal(applied, want) {
		t.Errorf("applied %q, want %q", applied, want)
	}
}

// fixedBroker is a broker that comes back to its address and its data.
type fixedBroker struct {
	address, dir string
	cluster      *kfake.Cluster
}

func newFixedBroker(t *testing.T) *fixedBroker {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b := &fixedBroker{address: listener.Addr().String(), dir: t.TempDir()}
	listener.Close()
	b.up(t)
	t.Cleanup(func() { b.cluster.Close() })
	return b
}

func (b *fixedBroker) up(t *testing.T) {
	t.Helper()
	var err error
	b.cluster, err = kfake.NewCluster(kfake.NumBrokers(1), kfake.DataDir(b.dir),
		kfake.ListenFn(func(string, string) (net.Listener, error) { return net.Listen("tcp", b.address) }))
	if err != nil {
		t.Fatalf("starting the broker: %v", err)
	}
}

// newLog makes a log that is soon tired of waiting.
func (b *fixedBroker) newLog(t *testing.T) *Log {
	l := newLog(t, b.address, "", nil)
	l.step = time.Second
	return l
}

func TestABrokerThatWasAwayIsFoundAgain(t *testing.T) {
	t.Parallel()
	broker := newFixedBroker(t)
	l := run(t, broker.newLog(t))
	l.awaitCaughtUp(t)
	l.append(t, "a", "1")
	broker.cluster.Close()

	for range 2 { // the second is refused while the first is still open
		begin := time.Now()
		if _, err := l.Append(t.Context(), "a", []byte("2")); !errors.Is(err, webhooks.ErrUnavailable) {
			t.Errorf("Append without a broker: %v, want ErrUnavailable", err)
		}
		if took := time.Since(begin); took > 2*l.step+closeTimeout {
			t.Errorf("it took %v to be refused", took)
		}
	}
	broker.up(t)
	eventually(t, "a write goes through", func() bool {
		_, err := l.Append(t.Context(), "b", []byte("3"))
		return err == nil
	})
	eventually(t, "b = 3 is read", func() bool { v, _ := l.get("b"); return v == "3" })
}

// A process that is cut off in the midst of a write is replaced by another. When
// its broker is back it must find out that it has a successor, not fence it.
func TestAProcessCutOffDoesNotTakeTheRegistryBack(t *testing.T) {
	t.Parallel()
	broker := newFixedBroker(t)
	first := run(t, broker.newLog(t))
	first.awaitCaughtUp(t)
	first.append(t, "a", "1")
	broker.cluster.Close()
	if _, err := first.Append(t.Context(), "a", []byte("2")); !errors.Is(err, webhooks.ErrUnavailable) {
		t.Fatalf("Append without a broker: %v, want ErrUnavailable", err)
	}
	broker.up(t)
	second := run(t, broker.newLog(t))
	second.awaitCaughtUp(t)
	second.append(t, "a", "3")

	eventually(t, "the first knows that it is fenced", func() bool {
		_, err := first.Append(t.Context(), "a", []byte("4"))
		if err == nil {
			t.Fatal("the first wrote after the second had taken over")
		}
		return errors.Is(err, webhooks.ErrFenced)
	})
	second.append(t, "b", "5")
	if v, _ := second.get("a"); v != "3" {
		t.Errorf("a = %s, want 3", v)
	}
}

func TestATopicThatIsDeletedIsNotTakenForAnEmptyRegistry(t *testing.T) {
	t.Parallel()
	cluster := startBroker(t)
	address := cluster.ListenAddrs()[0]
	l := run(t, newLog(t, address, "", nil))
	l.awaitCaughtUp(t)
	for range 3 {
		l.append(t, "a", "1")
	}
	results, err := newAdmin(t, address).DeleteTopics(t.Context(), []string{DefaultTopic})
	if err != nil {
		t.Fatal(err, results)
	}
	ended := make(chan error, 1)
	go func() { ended <- l.wait() }()
	select {
	case err := <-ended:
		t.Errorf("Run ended with %v while the topic may still come back", err)
	case <-time.After(time.Second):
	}
	if v, _ := l.get("a"); v != "1" {
		t.Errorf("a = %q, want 1: what was read stays", v)
	}
	run(t, newLog(t, address, "", nil)).awaitCaughtUp(t) // makes it anew, empty
	select {
	case err := <-ended:
		if !errors.Is(err, errLost) {
			t.Errorf("Run ended with %v, want %v", err, errLost)
		}
	case <-time.After(patience):
		t.Error("Run goes on over a topic that is another one")
	}
}

func TestRunEndsWhileTheBrokerIsAway(t *testing.T) {
	t.Parallel()
	broker := newFixedBroker(t)
	l := run(t, broker.newLog(t))
	l.awaitCaughtUp(t)
	broker.cluster.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := l.Append(ctx, "a", []byte("1")); !errors.Is(err, webhooks.ErrUnavailable) {
		t.Errorf("Append without a broker: %v, want ErrUnavailable", err)
	}
	begin := time.Now()
	if err := l.stop(); !errors.Is(err, context.Canceled) {
		t.Errorf("Run ended with %v, want context.Canceled", err)
	}
	if took := time.Since(begin); took > l.step+2*closeTimeout {
		t.Errorf("it took %v to stop", took)
	}
}
