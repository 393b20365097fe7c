package kafkastore

import (
	"context"
	"errors"
	"fmt"
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
			l := lead(t, newLog(t, cluster.ListenAddrs()[0], "", nil))
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
			l := lead(t, newLog(t, cluster.ListenAddrs()[0], "", nil))
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
				if errors.Is(err, webhooks.ErrNotLeader) {
					t.Logf("Lead ended with %v", l.resign())
					l.lead(t)
				}
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
	l.step = 2 * time.Second
	r := lead(t, l)
	r.append(t, "b", "1")
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

// The broker answers a commit when it is decided, before the markers are in the
// topic. So a leader that has gone may have answered what nobody can read yet; the
// next leader's taking over carries it out, and its first record comes after it.
func TestWhatWasAnsweredIsReadBeforeWhatTheNextLeaderWrites(t *testing.T) {
	t.Parallel()
	onEachBroker(t, func(t *testing.T, address, topic string) {
		logs := []*running{follow(t, newLog(t, address, topic, nil)), follow(t, newLog(t, address, topic, nil))}
		for turn := range 10 {
			value := fmt.Sprint(turn)
			before, after := logs[turn%2], logs[(turn+1)%2]
			before.lead(t)
			before.append(t, "a", value)
			after.lead(t) // the one before is not told
			after.append(t, "marker", value)
			eventually(t, "the marker is read", func() bool { v, _ := after.get("marker"); return v == value })
			if v, _ := after.get("a"); v != value {
				t.Fatalf("turn %d: a = %q after the next leader's record, want %q", turn, v, value)
			}
		}
	})
}

func TestAReaderThatIsRunAgainGoesOnWhereItWas(t *testing.T) {
	t.Parallel()
	address := startBroker(t).ListenAddrs()[0]
	l := lead(t, newLog(t, address, "", nil))
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
	l.step = 2 * time.Second
	return l
}

func TestABrokerThatWasAwayIsFoundAgain(t *testing.T) {
	t.Parallel()
	broker := newFixedBroker(t)
	l := lead(t, broker.newLog(t))
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
// its broker is back its leadership must find out that it has a successor, not
// fence it.
func TestAProcessCutOffDoesNotTakeTheRegistryBack(t *testing.T) {
	t.Parallel()
	broker := newFixedBroker(t)
	first := lead(t, broker.newLog(t))
	first.append(t, "a", "1")
	broker.cluster.Close()
	if _, err := first.Append(t.Context(), "a", []byte("2")); !errors.Is(err, webhooks.ErrUnavailable) {
		t.Fatalf("Append without a broker: %v, want ErrUnavailable", err)
	}
	broker.up(t)
	second := lead(t, broker.newLog(t))
	eventually(t, "the second has taken over", func() bool {
		_, err := second.Append(t.Context(), "a", []byte("3"))
		return err == nil
	})

	eventually(t, "the first knows that it is fenced", func() bool {
		_, err := first.Append(t.Context(), "a", []byte("4"))
		if err == nil {
			t.Fatal("the first wrote after the second had taken over")
		}
		return errors.Is(err, webhooks.ErrNotLeader)
	})
	eventually(t, "its Lead ends", func() bool { return first.writer.Load() == nil })
	if err := first.resign(); !errors.Is(err, webhooks.ErrFenced) {
		t.Errorf("Lead of the first ended with %v, want ErrFenced", err)
	}
	second.append(t, "b", "5")
	if v, _ := second.get("a"); v != "3" {
		t.Errorf("a = %s, want 3", v)
	}
}

func TestATopicThatIsDeletedIsNotTakenForAnEmptyRegistry(t *testing.T) {
	t.Parallel()
	cluster := startBroker(t)
	address := cluster.ListenAddrs()[0]
	l := lead(t, newLog(t, address, "", nil))
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

func TestALeadershipEndsWhileTheBrokerIsAway(t *testing.T) {
	t.Parallel()
	tests := map[string]func(t *testing.T, broker *fixedBroker, l *running){
		"taking over": func(t *testing.T, broker *fixedBroker, l *running) {
			broker.cluster.Close()
			l.lead(t)
		},
		"with nothing to do": func(t *testing.T, broker *fixedBroker, l *running) {
			l.lead(t)
			l.append(t, "a", "1")
			broker.cluster.Close()
		},
		"in the midst of a write": func(t *testing.T, broker *fixedBroker, l *running) {
			l.lead(t)
			l.append(t, "a", "1")
			broker.cluster.Close()
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			defer cancel()
			if _, err := l.Append(ctx, "a", []byte("2")); !errors.Is(err, webhooks.ErrUnavailable) {
				t.Errorf("Append without a broker: %v, want ErrUnavailable", err)
			}
		},
	}
	for name, prepare := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			broker := newFixedBroker(t)
			l := follow(t, newLog(t, broker.address, "", nil)) // with all the patience there is
			prepare(t, broker, l)
			begin := time.Now()
			if err := l.resign(); err != nil {
				t.Errorf("Lead ended with %v, want nil", err)
			}
			took := time.Since(begin)
			if took > lastAppend+closeTimeout+time.Second {
				t.Errorf("it took %v to stop leading", took)
			}
			begin = time.Now()
			if err := l.stop(); !errors.Is(err, context.Canceled) {
				t.Errorf("Run ended with %v, want context.Canceled", err)
			}
			if took := time.Since(begin); took > closeTimeout+time.Second {
				t.Errorf("it took %v to stop", took)
			}
		})
	}
}

// The broker times out the transaction of a producer that was away for long, and
// then has it that the producer is fenced. Nobody else leads: it leads again.
func TestATransactionThatWasTimedOutIsHealedByLeadingAgain(t *testing.T) {
	t.Parallel()
	for name, code := range map[string]*kerr.Error{"fenced": kerr.ProducerFenced, "an old epoch": kerr.InvalidProducerEpoch} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cluster := startBroker(t)
			l := lead(t, newLog(t, cluster.ListenAddrs()[0], "", nil))
			l.append(t, "a", "1")
			cluster.ControlKey(int16(kmsg.EndTxn), func(request kmsg.Request) (kmsg.Response, error, bool) {
				response := request.ResponseKind().(*kmsg.EndTxnResponse)
				response.ErrorCode = code.Code
				return response, nil, true
			})
			if _, err := l.Append(t.Context(), "a", []byte("2")); !errors.Is(err, webhooks.ErrUnavailable) {
				t.Errorf("Append: %v, want ErrUnavailable: a commit was asked for", err)
			}
			eventually(t, "appends are refused", func() bool {
				_, err := l.Append(t.Context(), "a", []byte("3"))
				return errors.Is(err, webhooks.ErrNotLeader)
			})
			if err := l.resign(); !errors.Is(err, webhooks.ErrFenced) {
				t.Errorf("Lead ended with %v, want ErrFenced", err)
			}
			l.lead(t)
			l.append(t, "b", "4")
			eventually(t, "b = 4 is read", func() bool { v, _ := l.get("b"); return v == "4" })
			if v, _ := l.get("a"); v != "1" {
				t.Errorf("a = %s, want 1: what was open is aborted by leading again", v)
			}
		})
	}
}
