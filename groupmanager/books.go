package groupmanager

import (
	"time"

	"github.com/kpush/kpush/acker"
)

// books are those of a lane: *acker.Ledger, or *acker.KeyedLedger with ordering key,
// which say what its methods mean.
type books interface {
	Deliver(runs []acker.Run) (*acker.Delivery, error)
	Resume(d *acker.Delivery, attempts int, first time.Time)
	Send(d *acker.Delivery, at time.Time) int
	Lease(d *acker.Delivery) bool
	Fail(d *acker.Delivery) bool
	Settle(d *acker.Delivery)
	Split(d *acker.Delivery, n int) *acker.Delivery
	Apply(s acker.Statement) (acker.Answer, error)

	Advance(position int64)
	Next() int64
	Head() *acker.Delivery
	LastSent() int64
	Full() bool
	Gap() bool
	Acked(dst []acker.Run) []acker.Run
	ResumeAcked(runs []acker.Run)
}
