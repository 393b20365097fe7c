package groupmanager

import (
	"time"

	"github.com/kpush/kpush/acker"
	"github.com/kpush/kpush/internal/records"
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

// runsOf lists the consecutive offsets of a batch.
func runsOf(b *records.Batch) []acker.Run {
	if b.Last()-b.First()+1 == int64(b.Len()) {
		return []acker.Run{{First: b.First(), Last: b.Last()}}
	}
	var runs []acker.Run
	for i := range b.Records {
		o := b.Records[i].Offset
		if n := len(runs); n > 0 && runs[n-1].Last+1 == o {
			runs[n-1].Last = o
			continue
		}
		runs = append(runs, acker.Run{First: o, Last: o})
	}
	return runs
}
