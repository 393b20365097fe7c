package groupmanager

import "time"

// PartitionState is what a partition is doing.
type PartitionState string

// The states of GET /v1/webhooks/{id}/partitions.
const (
	PartitionIdle       PartitionState = "idle"
	PartitionDelivering PartitionState = "delivering"
	PartitionWaitingAck PartitionState = "waiting_ack"
	PartitionBackingOff PartitionState = "backing_off"
	PartitionBlocked    PartitionState = "blocked" // exhausted, attempts go on
	PartitionPaused     PartitionState = "paused"
	PartitionUnassigned PartitionState = "unassigned"
	// PartitionWaitingLifecycle is the state until the receiver has answered the
	// call that tells it of the assignment.
	PartitionWaitingLifecycle PartitionState = "waiting_lifecycle"
)

// PartitionStatus is one row of /partitions. Offsets that are not known are nil.
type PartitionStatus struct {
	Topic           string
	Partition       int32
	Owner           string // replica id; empty when unassigned
	Generation      int32  // -1 when unassigned
	State           PartitionState
	CommittedOffset *int64 // next offset to read
	DeliveredOffset *int64 // last offset sent in this tenure
	EndOffset       *int64
	Lag             *int64
	Filtered        int64 // records not delivered in this tenure because the filter dropped them
	InFlight        int
	HeldRecords     int // with ordering key: read, and waiting for a delivery that holds their key
	Attempt         int // of the delivery at the head
	NextAttemptAt   *time.Time
	LastError       *AttemptError
}

// AttemptError tells of the last failed attempt.
type AttemptError struct {
	Code   string
	Status int // 0: no status was read
	At     time.Time
}
