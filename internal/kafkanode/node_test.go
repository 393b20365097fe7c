package kafkanode

import (
	"bytes"
	"context"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

const topic = "orders"

func TestNodeKeepsItsRecordsOverAKillAndARestart(t *testing.T) {
	n := Start(t)
	client, err := kgo.NewClient(kgo.SeedBrokers(n.Brokers()), kgo.MetadataMinAge(50*time.Millisecond), kgo.DefaultProduceTopic(topic), kgo.ProducerBatchMaxBytes(16<<20), kgo.ProducerBatchCompression(kgo.NoCompression()))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	admin := kadm.NewClient(client)
	if _, err := admin.CreateTopic(ctx, 1, 1, nil, topic); err != nil {
		t.Fatal(err)
	}

	restarts := []struct {
		name string
		end  func()
	}{
		{"an orderly restart", func() {}},
		{"a kill", n.Kill},
	}
	large := bytes.Repeat([]byte("x"), 11<<20)
	for i, r := range restarts {
		if err := client.ProduceSync(ctx, &kgo.Record{Value: large}).FirstErr(); err != nil {
			t.Fatalf("producing a record of 11 MiB before %s: %v", r.name, err)
		}
		before := n.Brokers()
		r.end()
		if err := n.Restart(ctx); err != nil {
			t.Fatalf("%s: %v", r.name, err)
		}
		if n.Brokers() != before {
			t.Errorf("after %s the address is %s, want %s still", r.name, n.Brokers(), before)
		}
		end, err := admin.ListEndOffsets(ctx, topic)
		if err != nil {
			t.Fatal(err)
		}
		if got, _ := end.Lookup(topic, 0); got.Offset != int64(i+1) {
			t.Errorf("after %s the topic ends at %d, want %d", r.name, got.Offset, i+1)
		}
	}

	out, err := n.Tool(ctx, "org.apache.kafka.tools.TopicCommand", "--describe", "--topic", topic)
	if err != nil || !strings.Contains(out, "PartitionCount: 1") {
		t.Errorf("the topic tool says %q, %v; want a description of one partition", out, err)
	}
	if out, err := n.Tool(ctx, "org.apache.kafka.tools.TopicCommand", "--describe", "--topic", "nothing"); err == nil {
		t.Errorf("the topic tool says %q of a topic that is not there, want an error", out)
	}
	dir := n.dir
	n.Stop()
	if present(dir) {
		t.Errorf("%s is still there after Stop", dir)
	}
}
