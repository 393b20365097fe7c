package partitionqueue

import (
	"context"
	"fmt"
	"maps"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kpush/kpush/internal/records"
)

// admin is a client for looking at a cluster from outside, and its topic.
func admin(t testing.TB, brokers, topic string, partitions int32) *kadm.Client {
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(brokers))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	a := kadm.NewClient(client)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if r, err := a.CreateTopic(ctx, partitions, 1, nil, topic); err != nil && r.Err != kerr.TopicAlreadyExists {
		t.Fatalf("creating %s: %v", topic, err)
	}
	return a
}

// transactions is a producer of transactions to a topic.
type transactions struct {
	client     *kgo.Client
	topic      string
	partitions int32
	made       int
}

func newTransactions(t testing.TB, brokers, topic string, partitions int32) *transactions {
	t.Helper()
	client, err := kgo.NewClient(append(producer(brokers), kgo.TransactionalID(topic))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return &transactions{client: client, topic: topic, partitions: partitions}
}

// one writes records to all partitions in a transaction, ends it, and returns their values.
func (tx *transactions) one(ctx context.Context, records int, end kgo.TransactionEndTry) ([]string, error) {
	if err := tx.client.BeginTransaction(); err != nil {
		return nil, err
	}
	var values []string
	var batch []*kgo.Record
	for i := range records {
		value := fmt.Sprintf("%d in transaction %d", i, tx.made)
		values = append(values, value)
		batch = append(batch, &kgo.Record{Topic: tx.topic, Partition: int32(i) % tx.partitions, Value: []byte(value)})
	}
	tx.made++
	if err := tx.client.ProduceSync(ctx, batch...).FirstErr(); err != nil {
		return nil, err
	}
	return values, tx.client.EndTransaction(ctx, end)
}

// TestRebalancesUnderTransactions has a second member join and leave again and
// again while transactions commit and abort: each committed record is read once,
// nothing else is, none comes out of Poll, and the group ends at the end.
func TestRebalancesUnderTransactions(t *testing.T) {
	const partitions, rounds = 6, 3 // two rebalances a round
	for _, strategy := range []string{"cooperative-sticky", "range"} {
		t.Run(strategy, func(t *testing.T) {
			brokers, topic, group := node.Node(t).Brokers(), "rebalances-"+strategy, "group-"+strategy
			admin := admin(t, brokers, topic, partitions)
			load, finish := context.WithCancel(t.Context())
			defer finish()
			committed := make(chan map[string]int, 1)
			tx := newTransactions(t, brokers, topic, partitions)
			go func() { committed <- produceUntil(t, load, tx) }()

			a := &audit{read: map[string]int{}}
			first := join(t, brokers, topic, group, strategy, a)
			await(t, "the first member to have all partitions", func() bool { return len(first.held()) == partitions })
			for range rounds {
				second := join(t, brokers, topic, group, strategy, a)
				await(t, "both members to share the partitions", func() bool {
					return len(second.held()) == partitions/2 && len(first.held()) == partitions/2
				})
				read := a.count()
				await(t, "records to be read meanwhile", func() bool { return a.count() > read+100 })
				second.stop()
				await(t, "the first member to have all partitions again", func() bool { return len(first.held()) == partitions })
			}
			finish()
			want := <-committed
			await(t, "the group to have committed the end of each partition", func() bool {
				return maps.Equal(committedOffsets(t, admin, group, topic), endOffsets(t, admin, topic))
			})
			first.stop()
			if diff := cmp.Diff(want, a.read); diff != "" {
				t.Errorf("records read, by how often (-want +got):\n%s", diff)
			}
			t.Logf("%d records in %d transactions", len(want), tx.made)
		})
	}
}

// produceUntil makes transactions until ctx ends, aborts every third, and
// returns what it has committed, each once.
func produceUntil(t *testing.T, ctx context.Context, tx *transactions) map[string]int {
	committed := map[string]int{}
	for ctx.Err() == nil {
		end := kgo.TransactionEndTry(tx.made%3 != 0)
		values, err := tx.one(context.WithoutCancel(ctx), 30, end)
		if err != nil {
			t.Errorf("transaction: %v", err)
			return committed
		}
		if end == kgo.TryCommit {
			for _, v := range values {
				committed[v]++
			}
		}
	}
	return committed
}

func endOffsets(t *testing.T, a *kadm.Client, topic string) map[int32]int64 {
	t.Helper()
	listed, err := a.ListEndOffsets(t.Context(), topic)
	if err != nil {
		t.Fatal(err)
	}
	ends := map[int32]int64{}
	listed.Each(func(o kadm.ListedOffset) { ends[o.Partition] = o.Offset })
	return ends
}

func committedOffsets(t *testing.T, a *kadm.Client, group, topic string) map[int32]int64 {
	t.Helper()
	fetched, err := a.FetchOffsets(t.Context(), group)
	if err != nil {
		t.Fatal(err)
	}
	offsets := map[int32]int64{}
	for p, o := range fetched[topic] {
		offsets[p] = o.At
	}
	return offsets
}

// await waits for something that has to come true.
func await(t testing.TB, what string, is func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	timeout := time.After(patience)
	for !is() {
		select {
		case <-tick.C:
		case <-timeout:
			t.Fatalf("waited %v in vain for %s", patience, what)
		}
	}
}

// TestALeavingMemberIsOutOfItsGroup: a consumer that was closed just when its
// partitions had been unassigned stayed in its group for a session, and they with it.
func TestALeavingMemberIsOutOfItsGroup(t *testing.T) {
	const rounds, partitions, topic = 8, 500, "orders"
	c := cluster(t, topic, partitions)
	brokers := c.ListenAddrs()[0]
	admin := admin(t, brokers, topic, partitions)
	for round := range rounds {
		group := fmt.Sprintf("leaving-%d", round)
		m := join(t, brokers, topic, group, "cooperative-sticky", &audit{read: map[string]int{}})
		await(t, "the member to have all partitions", func() bool { return len(m.held()) == partitions })
		m.stop()
		described, err := admin.DescribeGroups(t.Context(), group)
		if err != nil {
			t.Fatal(err)
		}
		if got := described[group].Members; len(got) > 0 {
			t.Errorf("round %d: the group still has the member that left: %v", round, got)
		}
	}
}

// TestPositionReachesTheEnd: lag can reach 0 although the last offsets of a
// partition are never delivered.
func TestPositionReachesTheEnd(t *testing.T) {
	const size = 5 // of a transaction, without its marker
	brokers := map[string]func(t *testing.T) string{
		"Apache Kafka": func(t *testing.T) string { return node.Node(t).Brokers() },
		"the embedded broker": func(t *testing.T) string {
			c, err := kfake.NewCluster(kfake.NumBrokers(1))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(c.Close)
			return c.ListenAddrs()[0]
		},
	}
	tests := []struct {
		name string
		ends []kgo.TransactionEndTry
		read int
	}{
		{"committed", []kgo.TransactionEndTry{kgo.TryCommit}, size},
		{"aborted-alone", []kgo.TransactionEndTry{kgo.TryAbort, kgo.TryAbort}, 0},
		{"aborted-at-the-end", []kgo.TransactionEndTry{kgo.TryCommit, kgo.TryAbort, kgo.TryAbort}, size},
		{"committed-at-the-end", []kgo.TransactionEndTry{kgo.TryAbort, kgo.TryCommit}, size},
	}
	for name, brokers := range brokers {
		for _, tc := range tests {
			t.Run(name+"/"+tc.name, func(t *testing.T) {
				brokers := brokers(t)
				admin(t, brokers, tc.name, 1)
				tx := newTransactions(t, brokers, tc.name, 1)
				for _, end := range tc.ends {
					if _, err := tx.one(t.Context(), size, end); err != nil {
						t.Fatal(err)
					}
				}
				// The broker confirms a transaction before it writes the marker, so
				// the end is reckoned, not asked for.
				want := int64(len(tc.ends) * (size + 1))
				_, queues := open(t, consumer(t, []string{brokers}, "isolation.level=read_committed"), tc.name, 0)
				q, b := queues[0], new(records.Batch)
				for q.Position() < want {
					if _, err := q.Read(b, 10); err != nil {
						t.Fatal(err)
					}
					if q.Position() < want {
						waitForWake(t, q)
					}
				}
				if got := q.Position(); got != want {
					t.Errorf("Position() = %d, want the end %d", got, want)
				}
				if b.Len() != tc.read {
					t.Errorf("%d records were read, want %d", b.Len(), tc.read)
				}
			})
		}
	}
}
