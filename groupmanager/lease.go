package groupmanager

import (
	"sync/atomic"
	"time"
)

// lease is how long this replica may act as the owner of its partitions without
// hearing from anybody: to the moment at which the coordinator would give up a
// member that it last heard from when we last heard from it. It is renewed by
// every sign of life from the coordinator, as long as the member polls.
//
// The client library has such a clock of its own for the classic protocol, but
// tells of its end through the poll loop, and has none for KIP-848. A process that
// was stopped and goes on finds the lease over before it does anything.
type lease struct {
	until atomic.Pointer[time.Time] // with a monotonic reading; nil: no lease yet
}

// renew sets the end of the lease, never to an earlier time.
func (l *lease) renew(until time.Time) {
	for {
		old := l.until.Load()
		if old != nil && !until.After(*old) || l.until.CompareAndSwap(old, &until) {
			return
		}
	}
}

// holds tells whether the lease has not ended at now.
func (l *lease) holds(now time.Time) bool {
	until := l.until.Load()
	return until != nil && now.Before(*until)
}
