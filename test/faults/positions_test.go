package faults

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/kpush/kpush/internal/gatewaytest"
	"github.com/kpush/kpush/internal/kafkanode"
)

// awaitFailed waits until the webhook has failed for a reason.
func (f *field) awaitFailed(t *testing.T, reason string) {
	t.Helper()
	gatewaytest.Await(t, later, func() error {
		w := f.api().Webhook(t, f.id)
		if w.State != "failed" || w.StateReason == nil || *w.StateReason != reason {
			return fmt.Errorf("the webhook is %s, reason %v; want it failed, %s", w.State, w.StateReason, reason)
		}
		return nil
	})
}

// stopAll ends all gateways in an orderly way.
func (f *field) stopAll(t *testing.T) {
	t.Helper()
	for _, name := range f.running() {
		f.gateways[name].Signal(t)
	}
	for _, name := range names {
		if g := f.gateways[name]; g != nil {
			if code := g.AwaitExit(t); code != 0 {
				t.Errorf("%s: exit code %d, want 0", name, code)
			}
		}
	}
}

// atRest is a field on which so many records were delivered, and whose gateways
// have ended.
func atRest(t *testing.T, node *kafkanode.Node, count int32, records int) *field {
	t.Helper()
	f := newField(t, node.Brokers(), count, lively)
	f.start(t, names...)
	f.register(t, nil)
	f.some(t, records)
	f.awaitEnd(t)
	f.stopAll(t)
	return f
}

// cutOff deletes the records of a partition below an offset, as retention does.
func (f *field) cutOff(t *testing.T, partition int32, below int64) {
	t.Helper()
	var offsets kadm.Offsets
	offsets.Add(kadm.Offset{Topic: f.topic, Partition: partition, At: below})
	if _, err := f.kafka.Admin().DeleteRecords(t.Context(), offsets); err != nil {
		t.Fatalf("deleting records below %d: %v", below, err)
	}
}

// skipped is what a running gateway counts as passed over by a reset.
func (f *field) skipped(t *testing.T) int {
	t.Helper()
	total := 0
	for _, name := range f.running() {
		reply := f.gateways[name].Management.Must(t, http.StatusOK, http.MethodGet, "/metrics", nil)
		for line := range strings.Lines(string(reply.Body)) {
			if strings.HasPrefix(line, "kpush_records_skipped") && strings.Contains(line, `reason="offset_reset"`) {
				var n float64
				fmt.Sscan(line[strings.LastIndex(line, " ")+1:], &n)
				total += int(n)
			}
		}
	}
	return total
}

func TestK12_OffsetOutOfRange(t *testing.T) {
	const delivered, more, lost = 60, 600, 30
	node, _ := nodeOf(t)
	f := atRest(t, node, partitions, delivered)
	f.some(t, more)
	struck := f.partition(0)
	committed := f.kafka.Committed(t, f.group)[struck]
	f.cutOff(t, 0, committed+lost)

	f.start(t, names...)
	f.awaitFailed(t, "offset_out_of_range")
	if got := f.kafka.Committed(t, f.group)[struck]; got != committed {
		t.Errorf("committed is %d while the webhook has failed, want %d still", got, committed)
	}
	if dropped := f.produced.Drop(struck, committed, committed+lost); dropped != lost {
		t.Fatalf("%d records were lost, want %d", dropped, lost)
	}
	f.update(t, object{"offset_reset": "earliest"})
	f.awaitMore(t, delivered+more-lost)
	if got := f.skipped(t); got != lost {
		t.Errorf("%d records are counted as passed over, want %d", got, lost)
	}
	f.finish(t)
}

func TestK13_GroupDeletedByAnAdmin(t *testing.T) {
	const delivered, more = 60, 60
	node, _ := nodeOf(t)
	f := atRest(t, node, partitions, delivered)
	f.kafka.DeleteGroup(t, f.group)
	f.some(t, more)

	f.start(t, names...)
	f.awaitFailed(t, "committed_offset_gone")
	if got := f.receiver.Distinct(f.id); got != delivered {
		t.Errorf("%d records arrived, want none beyond the %d of before", got, delivered)
	}
	f.update(t, object{"offset_reset": "earliest"})
	for p := range int32(partitions) {
		f.known.Resets = append(f.known.Resets, gatewaytest.Reset{Partition: f.partition(p), Offset: 0})
	}
	f.awaitMore(t, delivered+more)
	f.finish(t)
}

// toolPatience bounds one of Kafka's command line tools.
const toolPatience = time.Minute

// resetByTool sets the committed offset of partition 0 as an administrator does.
func (f *field) resetByTool(t *testing.T, node *kafkanode.Node, to int64) {
	t.Helper()
	gatewaytest.Await(t, soon, func() error { // a member that left during a rebalance is thrown out after its session
		described, err := f.kafka.Admin().DescribeGroups(t.Context(), f.group)
		if err != nil || described[f.group].State != "Empty" {
			return fmt.Errorf("the group is %q, %v; want it empty", described[f.group].State, err)
		}
		return nil
	})
	ctx, cancel := context.WithTimeout(t.Context(), toolPatience)
	defer cancel()
	out, err := node.Tool(ctx, "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand", "--group", f.group,
		"--reset-offsets", "--to-offset", fmt.Sprint(to), "--topic", f.topic+":0", "--execute")
	if err != nil {
		t.Fatalf("resetting offsets: %v\n%s", err, out)
	}
	if got := f.kafka.Committed(t, f.group)[f.partition(0)]; got != to {
		t.Fatalf("the tool was to set offset %d and it is %d:\n%s", to, got, out)
	}
	f.known.Resets = append(f.known.Resets, gatewaytest.Reset{Partition: f.partition(0), Offset: to})
}

func TestK14_AdminResetsOffsets(t *testing.T) {
	const delivered, more = 300, 300 // fifty of each partition
	const back, ahead = 20, 80
	node, _ := nodeOf(t)
	f := atRest(t, node, partitions, delivered)
	first := func(from int) int64 {
		for _, d := range f.receiver.Deliveries(f.id)[from:] {
			if d.Partition.ID == 0 {
				return d.First()
			}
		}
		return -1
	}
	f.resetByTool(t, node, back)
	seen := len(f.receiver.Deliveries(f.id))
	f.start(t, names...)
	f.awaitEnd(t)
	if got := first(seen); got != back {
		t.Errorf("after a reset back to %d the first delivery is of %d", back, got)
	}
	f.stopAll(t)

	f.some(t, more)
	f.resetByTool(t, node, ahead)
	f.produced.Drop(f.partition(0), delivered/partitions, ahead)
	seen = len(f.receiver.Deliveries(f.id))
	f.start(t, names...)
	f.awaitEnd(t)
	if got := first(seen); got != ahead {
		t.Errorf("after a reset ahead to %d the first delivery is of %d", ahead, got)
	}
	f.finish(t)
}

func TestK15_TopicRecreated(t *testing.T) {
	const delivered, more = 600, 60
	for _, test := range []struct {
		name       string
		partitions int32
	}{{"with fewer partitions", 2}, {"with more partitions", 9}} {
		t.Run(test.name, func(t *testing.T) {
			node, _ := nodeOf(t)
			f := newField(t, node.Brokers(), partitions, lively, quickMetadata)
			f.start(t, names...)
			f.register(t, nil)
			f.some(t, delivered)
			f.awaitEnd(t)
			if _, err := f.kafka.Admin().DeleteTopics(t.Context(), f.topic); err != nil {
				t.Fatalf("deleting topic %s: %v", f.topic, err)
			}
			f.awaitFailed(t, "topic_not_found")
			f.audit(t)

			// The topic that follows is another one: its ledgers begin anew.
			seen := len(f.receiver.Deliveries(f.id))
			f.produced, f.count = new(gatewaytest.Produced), test.partitions
			f.kafka.CreateTopic(t, f.topic, test.partitions)
			f.kafka = gatewaytest.DialKafka(t, node.Brokers())
			f.some(t, more)
			gatewaytest.Await(t, later, func() error {
				fresh := map[string]bool{}
				for _, d := range f.receiver.Deliveries(f.id)[seen:] {
					for _, r := range d.Records {
						fresh[fmt.Sprint(d.Partition, r.Offset)] = true
					}
				}
				if len(fresh) < more {
					return fmt.Errorf("%d of the %d records of the new topic arrived; the webhook is %+v", len(fresh), more, f.api().Webhook(t, f.id))
				}
				return nil
			})
			f.awaitEnd(t)
			for p := range test.partitions {
				for _, d := range f.receiver.Deliveries(f.id)[seen:] {
					if d.Partition.ID == p {
						if d.First() != 0 {
							t.Errorf("partition %d of the new topic begins with %d, want 0", p, d.First())
						}
						break
					}
				}
			}
		})
	}
}

// quickMetadata has new partitions seen within about a second.
func quickMetadata(c *gatewaytest.Config) {
	c.Properties["topic.metadata.refresh.interval.ms"] = "1000"
}

func TestK16_PartitionsAdded(t *testing.T) {
	const more, served = 12, 8 * time.Second
	node, _ := nodeOf(t)
	f := underLoad(t, node.Brokers(), lively, quickMetadata)
	f.known.Clean = true
	if _, err := f.kafka.Admin().CreatePartitions(t.Context(), more-partitions, f.topic); err != nil {
		t.Fatalf("adding partitions: %v", err)
	}
	f.flow.Stop(t)
	f.count = more
	f.kafka = gatewaytest.DialKafka(t, node.Brokers()) // which knows all of them
	added := time.Now()
	f.produce(t)
	fresh := []int32{6, 7, 8, 9, 10, 11}
	checkWithin(t, "new partitions served", f.takenOver(t, fresh, added), served)
	f.settle(t)
	f.finish(t)
}
