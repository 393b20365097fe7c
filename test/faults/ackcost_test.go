package faults

import (
	"context"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/kpush/kpush/internal/gatewaytest"
)

// maxForwardCost is how much longer an ack may take through a replica that does not
// own the partition, at the median, when all of them are on one machine.
const maxForwardCost = 5 * time.Millisecond

// TestAckThroughAnotherReplicaCostsLittle acks one record after the other, in turn at
// the owner, and through another replica by token and by fields.
func TestAckThroughAnotherReplicaCostsLittle(t *testing.T) {
	const rounds = 60
	node, _ := nodeOf(t)
	opened := make(chan *gatewaytest.Delivery, partitions)
	f := newField(t, node.Brokers(), partitions, func(d *gatewaytest.Delivery) gatewaytest.Answer {
		if d.Partition.ID == 0 {
			opened <- d
		}
		return gatewaytest.Answer{Status: http.StatusAccepted}
	})
	f.start(t, names...)
	f.register(t, object{"ack": object{"timeout_ms": 60_000}, "batch": object{"max_records": 1}})
	f.settleIdle(t)
	owner, other := f.ownerOf(t, 0)
	f.some(t, partitions*(3*rounds+1)) // the last stays open

	took := map[string][]time.Duration{}
	for range rounds {
		for _, way := range []string{"owner", "token", "fields"} {
			api, ack := f.gateways[other].API, (*gatewaytest.API).AckFields
			if way == "owner" {
				api = f.gateways[owner].API
			}
			var d *gatewaytest.Delivery
			select {
			case d = <-opened:
			case <-time.After(soon):
				t.Fatalf("no delivery after %d rounds; complaints %v", len(took["fields"]), f.receiver.Complaints())
			}
			pass(t, 20*time.Millisecond) // the response has been read, and the last commit is over
			if way != "fields" {
				ack = func(a *gatewaytest.API, ctx context.Context, r *gatewaytest.Receiver, d *gatewaytest.Delivery, wait string) (gatewaytest.AckReply, error) {
					return a.AckDelivery(ctx, r, d, d.Last(), wait)
				}
			}
			start := time.Now()
			reply, err := ack(api, t.Context(), f.receiver, d, "")
			if err != nil || reply.Status != http.StatusOK || reply.Result != "committed" {
				t.Fatalf("ack by way of %s: %+v, %v; want 200 committed", way, reply, err)
			}
			took[way] = append(took[way], time.Since(start))
		}
	}
	median := func(way string) time.Duration {
		slices.Sort(took[way])
		return took[way][rounds/2]
	}
	atOwner := median("owner")
	t.Logf("median ack with wait=commit at the owner: %v", atOwner)
	checkWithin(t, "more through another replica by token", median("token")-atOwner, maxForwardCost)
	checkWithin(t, "more through another replica by fields", median("fields")-atOwner, maxForwardCost)
	f.audit(t)
}
