package groupmanager

import (
	"errors"
	"fmt"
	"time"
)

// AckRequest is one statement of a receiver, by token or by fields.
type AckRequest struct {
	Token string // when set, the fields below up to Offset are empty

	Tenant     string
	WebhookID  string // or GroupID
	GroupID    string
	Topic      string
	Partition  int32
	Generation int32
	Offset     int64 // inclusive

	Outcome    string // ack, nack, extend, reject, partial; empty is ack
	UpToOffset *int64 // by token: acks the head of the delivery
	Delay      time.Duration
	Extend     time.Duration
	Reason     string
	Failures   []AckFailure // partial

	WaitAccept bool // answer once recorded, not once committed
}

// AckFailure is what a partial ack says of one record: each has an offset of its own.
type AckFailure struct {
	Offset int64
	Action string // retry, dead_letter, skip
	Reason string
}

// AckAnswer is the answer to a statement that was counted or repeated.
type AckAnswer struct {
	Result          string // committed, accepted, already_committed, pending_gap, scheduled, extended
	Generation      int32
	CommittedOffset *int64     // committed, already_committed: next offset of the group
	BlockedBy       *int64     // pending_gap
	Deadline        *time.Time // extended
}

// Refusals of an ack; contract section 5.4. Nothing moved.
var (
	ErrTokenInvalid      = errors.New("the token was not made by this installation")
	ErrWebhookNotFound   = errors.New("no such webhook")
	ErrPartitionNotFound = errors.New("not a topic and partition of this webhook")
	ErrOutcomeConflict   = errors.New("another outcome already stands for this delivery")
	ErrOffsetOutOfRange  = errors.New("the offset was not delivered in this tenure")
	ErrNoOwner           = errors.New("the partition is between owners")
)

// StaleError says that the generation is not of the current tenure.
type StaleError struct{ Current int32 }

func (e *StaleError) Error() string {
	return fmt.Sprintf("the generation is not of the current tenure, which is at %d", e.Current)
}
