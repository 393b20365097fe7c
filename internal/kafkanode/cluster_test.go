package kafkanode

import (
	"context"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kpush/kpush/internal/freeport"
)

func TestClusterGoesOnWithoutOneNode(t *testing.T) {
	c := StartCluster(t, 3)
	client, err := kgo.NewClient(kgo.SeedBrokers(c.Node(0).Brokers(), c.Node(1).Brokers(), c.Node(2).Brokers()), kgo.DefaultProduceTopic(topic))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	admin := kadm.NewClient(client)
	if _, err := admin.CreateTopic(ctx, 1, -1, nil, topic); err != nil {
		t.Fatal(err)
	}
	ends := []struct {
		name string
		end  func(n *Node)
	}{
		{"a kill", (*Node).Kill},
		{"an orderly end", (*Node).Shutdown},
	}
	for i, e := range ends {
		leader, err := c.Leader(ctx, topic, 0)
		if err != nil {
			t.Fatal(err)
		}
		e.end(leader)
		start := time.Now()
		if err := client.ProduceSync(ctx, &kgo.Record{Value: []byte("x")}).FirstErr(); err != nil {
			t.Fatalf("producing after %s of the leader: %v", e.name, err)
		}
		took := time.Since(start)
		if next, err := c.Leader(ctx, topic, 0); err != nil || next == leader {
			t.Errorf("after %s of node %d the leader is %v, %v; want another", e.name, leader.ID(), next, err)
		}
		if err := leader.Restart(ctx); err != nil {
			t.Fatal(err)
		}
		if err := c.AwaitInSync(ctx); err != nil {
			t.Fatalf("after %s: %v", e.name, err)
		}
		t.Logf("%s: written after %v, in sync after %v", e.name, took, time.Since(start))
		end, err := admin.ListEndOffsets(ctx, topic)
		if err != nil {
			t.Fatal(err)
		}
		if got, _ := end.Lookup(topic, 0); got.Offset != int64(i+1) {
			t.Errorf("after %s the topic ends at %d, want %d", e.name, got.Offset, i+1)
		}
	}
	c.Kill()
	if err := c.RestartAll(ctx); err != nil {
		t.Fatalf("restarting after the death of all: %v", err)
	}
}

func TestDetourIsWhatItsClientsAreTold(t *testing.T) {
	const elsewhere = "127.0.0.1:1"
	n := Start(t, WithDetour(elsewhere))
	for _, test := range []struct{ name, seed, told string }{
		{"the listener itself", n.Brokers(), n.Brokers()},
		{"the detour", n.Detour(), elsewhere},
	} {
		client, err := kgo.NewClient(kgo.SeedBrokers(test.seed))
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		brokers, err := kadm.NewClient(client).ListBrokers(t.Context())
		if err != nil || len(brokers) != 1 {
			t.Fatalf("brokers by way of %s: %v, %v; want one", test.name, brokers, err)
		}
		if got := freeport.Address(int(brokers[0].Port)); got != test.told {
			t.Errorf("by way of %s the broker is at %s, want %s", test.name, got, test.told)
		}
	}
}
