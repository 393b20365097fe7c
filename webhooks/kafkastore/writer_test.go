package kafkastore

import (
	"errors"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/confluentinc/confluent-kafka-go/v2/kafka"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/kpush/kpush/internal/kafkaconf"
	"github.com/kpush/kpush/webhooks"
)

func TestTheLatestToLeadFencesTheOneBeforeForthAndBack(t *testing.T) {
	t.Parallel()
	onEachBroker(t, func(t *testing.T, address, topic string) {
		logs := []*running{follow(t, newLog(t, address, topic, nil)), follow(t, newLog(t, address, topic, nil))}
		refused := func(r *running) {
			t.Helper()
			if _, err := r.Append(t.Context(), "a", []byte("fenced")); !errors.Is(err, webhooks.ErrNotLeader) {
				t.Fatalf("Append by the one before: %v, want ErrNotLeader", err)
			}
		}
		for turn := range 4 {
			leader, before := logs[turn%2], logs[(turn+1)%2]
			leader.lead(t)
			value := fmt.Sprint(turn)
			leader.append(t, "a", value)
			for range 2 { // it is told so by the broker first, and then knows
				refused(before)
			}
			if err := before.resign(); turn > 0 && !errors.Is(err, webhooks.ErrFenced) {
				t.Errorf("Lead of the one before ended with %v, want ErrFenced", err)
			}
			for _, r := range logs {
				eventually(t, "both read a = "+value, func() bool { v, _ := r.get("a"); return v == value })
			}
		}
	})
}

func TestALeadershipThatIsHandedOverIsNotFenced(t *testing.T) {
	t.Parallel()
	onEachBroker(t, func(t *testing.T, address, topic string) {
		logs := []*running{follow(t, newLog(t, address, topic, nil)), follow(t, newLog(t, address, topic, nil))}
		last := int64(-1)
		for turn := range 4 {
			leader := logs[turn%2]
			leader.lead(t)
			if offset := leader.append(t, "a", fmt.Sprint(turn)); offset <= last {
				t.Errorf("turn %d wrote to offset %d, want above %d", turn, offset, last)
			} else {
				last = offset
			}
			if err := leader.resign(); err != nil {
				t.Errorf("Lead ended with %v, want nil", err)
			}
			if _, err := leader.Append(t.Context(), "a", nil); !errors.Is(err, webhooks.ErrNotLeader) {
				t.Errorf("Append after Lead has ended: %v, want ErrNotLeader", err)
			}
		}
	})
}

func TestAFollowerWritesNothing(t *testing.T) {
	t.Parallel()
	cluster := startBroker(t)
	var writes atomic.Int32
	for _, request := range []kmsg.Key{kmsg.Produce, kmsg.InitProducerID, kmsg.AddPartitionsToTxn, kmsg.EndTxn} {
		cluster.ControlKey(int16(request), func(request kmsg.Request) (kmsg.Response, error, bool) {
			cluster.KeepControl()
			if init, ok := request.(*kmsg.InitProducerIDRequest); !ok || init.TransactionalID != nil {
				writes.Add(1)
			}
			return nil, nil, false
		})
	}
	l := follow(t, newLog(t, cluster.ListenAddrs()[0], "", nil))
	if _, err := l.Append(t.Context(), "a", nil); !errors.Is(err, webhooks.ErrNotLeader) {
		t.Errorf("Append: %v, want ErrNotLeader", err)
	}
	if n := writes.Load(); n != 0 {
		t.Errorf("it made %d requests to write, want none", n)
	}
	l.lead(t)
	l.append(t, "a", "1")
	if n := writes.Load(); n == 0 {
		t.Error("a leader's requests were not seen")
	}
}

func TestATransactionLeftOpenDoesNotHideWhatFollows(t *testing.T) {
	t.Parallel()
	onEachBroker(t, func(t *testing.T, address, topic string) {
		first := lead(t, newLog(t, address, topic, nil))
		first.append(t, "a", "1")
		first.stop()

		// A process that dies between producing and committing.
		conf := kafkaconf.Config{Brokers: []string{address}}.TransactionalProducer(topic)
		producer, err := kafka.NewProducer(&conf)
		if err != nil {
			t.Fatal(err)
		}
		defer producer.Close()
		report := make(chan kafka.Event, 1)
		if err := errors.Join(producer.InitTransactions(t.Context()), producer.BeginTransaction(), producer.Produce(&kafka.Message{
			TopicPartition: kafka.TopicPartition{Topic: &topic}, Key: []byte("a"), Value: []byte("never committed")}, report)); err != nil {
			t.Fatal(err)
		}
		<-report

		second := lead(t, newLog(t, address, topic, nil))
		second.append(t, "b", "1")
		eventually(t, "b = 1 is read", func() bool { v, _ := second.get("b"); return v == "1" })
		if v, _ := second.get("a"); v != "1" {
			t.Errorf("a = %q, want 1: the open transaction is to be aborted", v)
		}
		second.append(t, "a", "2")
		eventually(t, "a = 2 is read", func() bool { v, _ := second.get("a"); return v == "2" })
	})
}

func TestAppendAfterStopIsRefused(t *testing.T) {
	t.Parallel()
	l := lead(t, newLog(t, startBroker(t).ListenAddrs()[0], "", nil))
	l.append(t, "a", "1")
	l.stop()
	if _, err := l.Append(t.Context(), "a", nil); !errors.Is(err, webhooks.ErrNotLeader) {
		t.Errorf("Append after all has ended: %v, want ErrNotLeader", err)
	}
}
