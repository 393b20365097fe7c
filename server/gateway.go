package server

import (
	"context"
	"time"

	"github.com/kpush/kpush/groupmanager"
	"github.com/kpush/kpush/webhooks"
	"github.com/kpush/kpush/webhooks/delivery"
)

// A Gateway is what the API is the outside of; *groupmanager.Manager is one. Its
// methods are called from many goroutines at once and return promptly when their
// context ends. Errors are told apart with errors.Is and errors.As (statusOf
// knows them); their text is logged and never answered, but for Ready's.
type Gateway interface {
	// Create registers a webhook, durably, with its group's start pinned.
	Create(ctx context.Context, w webhooks.Webhook) (webhooks.Entry, error)

	// Put registers or replaces a webhook. With ifMatch the revision that stands
	// has to be that one, or webhooks.AnyRevision, else the error is
	// webhooks.ErrPrecondition.
	Put(ctx context.Context, w webhooks.Webhook, ifMatch *int64) (e webhooks.Entry, created bool, err error)

	// Get and List tell webhooks with the state they are in now; List is ordered by id.
	Get(tenant, id string) (webhooks.Entry, error)
	List(tenant string) ([]webhooks.Entry, error)

	// Delete removes a webhook and, with offsets, its group's committed offsets.
	Delete(ctx context.Context, tenant, id string, offsets bool) error

	Pause(ctx context.Context, tenant, id string) (webhooks.Entry, error)
	Resume(ctx context.Context, tenant, id string) (webhooks.Entry, error)

	// Test sends the webhook's receiver a sample. Asked too often the error is a
	// *groupmanager.RateLimitedError.
	Test(ctx context.Context, tenant, id string) (delivery.Result, error)

	// RotateSecret gives a webhook new signing keys, durably; those before sign beside
	// them for the overlap.
	RotateSecret(ctx context.Context, tenant, id string, r webhooks.Rotation) (webhooks.Entry, error)

	// PublicKeys are those that sign the requests of any webhook now, in no order.
	PublicKeys() ([]webhooks.PublicKey, error)

	// Seek moves the committed offsets of the webhook's group, and deliveries with
	// them, or with DryRun tells what would move. For a partition that is not the
	// webhook's, and an offset that its log does not have, the error is a
	// *webhooks.ValidationError with pointers into the body of the request.
	Seek(ctx context.Context, tenant, id string, r groupmanager.SeekRequest) ([]groupmanager.SeekMove, error)

	// Partitions tells where every partition stands, ordered by topic and partition.
	PartitionsPage(ctx context.Context, tenant, id string, after groupmanager.Place, limit int) (rows []groupmanager.PartitionStatus, more bool, err error)

	// Ack counts a receiver's statement, or refuses it and moves nothing.
	Ack(ctx context.Context, a groupmanager.AckRequest) (groupmanager.AckAnswer, error)

	// Age is how long ago Kafka was last heard from: Get and List may be out of date
	// by so much.
	Age() time.Duration

	// Ready returns nil, or why the gateway cannot do its work, in words that
	// anybody may read: no addresses, no errors of other libraries.
	Ready() error
}

var _ Gateway = (*groupmanager.Manager)(nil)

// tenant is the only one of an installation without tenants.
const tenant = webhooks.DefaultTenant
