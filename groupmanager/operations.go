package groupmanager

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/kpush/kpush/replica"
	"github.com/kpush/kpush/webhooks"
)

// What one replica asks of another. None of these is ever passed on to a third.
const (
	// Asked of the leader. Besides their own errors they are refused with
	// webhooks.ErrNotLeader by a replica that does not lead.
	operationCreate  = "create"  // createRequest → change
	operationPut     = "put"     // putRequest → change
	operationDelete  = "delete"  // deleteRequest → change
	operationPause   = "pause"   // webhookTarget → change
	operationResume  = "resume"  // webhookTarget → change
	operationDisable = "disable" // disableRequest → change
	operationOffsets = "offsets" // offsetsRequest → []SeekMove
	operationRotate  = "rotate"  // rotateRequest → change

	// The same with credentials, for which a former build would take their masks.
	operationCreateSealed = "create_sealed"
	operationPutSealed    = "put_sealed"

	// Asked of every other replica.
	operationQuiesce    = "quiesce"    // quiesceRequest → nothing: see Manager.quiesce
	operationAgain      = "again"      // webhookTarget → nothing: see Manager.again
	operationSeek       = "seek"       // seekTargets → []seekTarget, those moved there
	operationPartitions = "partitions" // partitionsTarget → []PartitionStatus, those held there
	operationFailures   = "failures"   // nothing → failures

	// Asked of the owner of a partition.
	operationAck    = "ack"    // AckRequest → AckAnswer
	operationRefuse = "refuse" // the same for reject and partial, which a former build would take for acks
)

// webhookTarget names a webhook.
type webhookTarget struct {
	Tenant string `json:"tenant"`
	ID     string `json:"id"`
}

func (t webhookTarget) key() webhookKey { return webhookKey{t.Tenant, t.ID} }

// createRequest carries the webhook's credentials sealed (webhooks.Webhook.SealCall).
type createRequest struct {
	webhooks.Webhook
	Credentials []byte `json:"sealed_credentials,omitempty"`
}

// putRequest carries them in the same way.
type putRequest struct {
	Webhook     webhooks.Webhook `json:"webhook"`
	Credentials []byte           `json:"sealed_credentials,omitempty"`
	IfMatch     *int64           `json:"if_match"`
}

type deleteRequest struct {
	webhookTarget
	Offsets bool `json:"offsets"` // of the Kafka group, too
}

// quiesceRequest is about a webhook as it stands at a revision, or does not any more.
type quiesceRequest struct {
	webhookTarget
	Revision int64 `json:"revision"`
}

// disableRequest is about a webhook whose receiver wants nothing more, or is the
// installation itself.
type disableRequest struct {
	quiesceRequest
	Looped bool `json:"looped,omitempty"`
}

type offsetsRequest struct {
	webhookTarget
	Seek SeekRequest `json:"seek"`
}

// handle says what this replica does for others.
func (m *Manager) handle(peers Peers) {
	for _, operation := range []string{operationCreate, operationCreateSealed} {
		register(peers, operation, func(ctx context.Context, r createRequest) (change, error) {
			return m.opened(ctx, r.Webhook, r.Credentials, m.create)
		})
	}
	for _, operation := range []string{operationPut, operationPutSealed} {
		register(peers, operation, func(ctx context.Context, r putRequest) (change, error) {
			put := func(ctx context.Context, w webhooks.Webhook) (change, error) { return m.put(ctx, w, r.IfMatch) }
			return m.opened(ctx, r.Webhook, r.Credentials, put)
		})
	}
	register(peers, operationDelete, m.remove)
	register(peers, operationPause, m.pause)
	register(peers, operationResume, m.resume)
	register(peers, operationDisable, m.disable)
	register(peers, operationOffsets, m.seek)
	register(peers, operationRotate, m.rotate)

	register(peers, operationQuiesce, func(ctx context.Context, r quiesceRequest) (any, error) { return nil, m.quiesce(ctx, r) })
	register(peers, operationAgain, func(_ context.Context, t webhookTarget) (any, error) {
		m.again(t)
		return nil, nil
	})
	register(peers, operationSeek, m.seekHeld)
	register(peers, operationPartitions, m.heldPartitions)
	register(peers, operationFailures, func(context.Context, struct{}) (failures, error) { return m.ownFailures(), nil })
	register(peers, operationAck, m.ackHeld)
	register(peers, operationRefuse, m.ackHeld)
}

// opened does something with a webhook whose credentials have come sealed, if it has any.
func (m *Manager) opened(ctx context.Context, w webhooks.Webhook, sealed []byte, do func(context.Context, webhooks.Webhook) (change, error)) (change, error) {
	if err := w.OpenCall(m.cfg.Keys, sealed); err != nil {
		return change{}, unavailable(err) // the two replicas have no key in common
	}
	return do(ctx, w)
}

// register handles an operation with its input decoded and its errors in the words
// of refusals.
func register[In, Out any](peers Peers, operation string, do func(context.Context, In) (Out, error)) {
	peers.Handle(operation, func(ctx context.Context, body []byte) (any, error) {
		var in In
		if err := json.Unmarshal(body, &in); err != nil {
			return nil, fmt.Errorf("reading the input of %s: %w", operation, err)
		}
		out, err := do(ctx, in)
		if err != nil {
			return nil, refusal(err)
		}
		return out, nil
	})
}

// others are the live replicas besides this one. When Kafka does not tell, that is
// webhooks.ErrUnavailable.
func (m *Manager) others(ctx context.Context) ([]replica.Peer, error) {
	others, err := m.peers.Others(ctx)
	if err != nil {
		return nil, unavailable(fmt.Errorf("looking up the other replicas: %w", err))
	}
	return others, nil
}
