//go:build unsound

package groupmanager

import (
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"
	"time"
)

// UNSOUND_KPUSH names the promise that this build breaks. It is never shipped.
var (
	broken          = os.Getenv("UNSOUND_KPUSH")
	breaksFencing   = broken == "fencing"
	breaksDrain     = broken == "drain"
	breaksMonotonic = broken == "monotonic" // every other commit goes back
	breaksAcks      = broken == "acks"      // commits run ahead of the acks
	stallsPoll      = broken == "poll"      // the poll loop stops when told to by SIGUSR1
)

// wrongBy is how far a commit is from where it should be.
const wrongBy = 250

func unsound(offset int64) int64 {
	switch {
	case breaksMonotonic && offset/100%2 == 0:
		return max(0, offset-wrongBy)
	case breaksAcks:
		return offset + wrongBy
	}
	return offset
}

// A tenure that was given up commits once more after a while, and far ahead: what
// its successor has delivered meanwhile must not make it look right.
const (
	ghostAfter = 1500 * time.Millisecond
	ghostAhead = 5000
)

// haunt has tenures that were given up go on committing, as if late acks were taken
// for them: by the member's own generation, which the broker does not refuse.
func (c *committer) haunt(tenures []*tenure) {
	if !breaksFencing {
		return
	}
	time.AfterFunc(ghostAfter, func() {
		for _, t := range tenures {
			if c.committed(t) >= 0 {
				c.begin(t)
				c.publish(t, c.committed(t)+ghostAhead)
			}
		}
	})
}

// stallFor is how long the poll loop stops: longer than the max.poll.interval.ms of
// the fault suites.
const stallFor = 20 * time.Second

var stalled atomic.Bool

func init() {
	if !stallsPoll {
		return
	}
	told := make(chan os.Signal, 1)
	signal.Notify(told, syscall.SIGUSR1)
	go func() {
		for range told {
			stalled.Store(true)
		}
	}()
}

// stall stops the caller, once for each SIGUSR1. The client's own threads go on.
func stall() {
	if stalled.CompareAndSwap(true, false) {
		time.Sleep(stallFor)
	}
}
