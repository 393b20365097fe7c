package groupmanager

import (
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"time"

	"github.com/kpush/kpush/acker"
)

// topicPartition names a partition of a topic; comparable, unlike the client's.
type topicPartition struct {
	topic     string
	partition int32
}

// tenure is the time this replica holds one partition without a break: made at
// the assignment, ended at revoke or loss. It is never reused, so a late answer
// that holds an old tenure can move nothing.
type tenure struct {
	topicPartition
	topicID [16]byte
	id      uint64         // random: tells apart tenures whose generations collide
	began   int32          // the group's generation at the assignment
	start   int64          // committed offset at the assignment; -1 if there was none
	resume  acker.Metadata // what the tenure before left with that commit
	doubt   doubt          // what acks by fields may be too old for

	// Written by the partition, read by anyone.
	safe     atomic.Int64         // offset that may be committed; -1 before anything is known
	oldest   atomic.Int64         // timestamp in ms of the oldest record not settled; 0 for none
	inFlight atomic.Int64         // requests under way
	noted    atomic.Pointer[note] // delivery state that goes with a commit; nil for none

	// lost is set by the committer when the assignment was lost: whatever is said to
	// the partition from then on is refused, though it may hear of its end a little later.
	lost atomic.Bool

	// waiting is set until the receiver has answered the lifecycle call that tells
	// it of the assignment: nothing is delivered before.
	waiting atomic.Bool

	// Guarded by committer.mu.
	committed int64  // confirmed by the broker; -1 before anything is known
	metadata  string // that the broker has with committed
	ended     bool
	waiters   []waiter
}

// doubt is what a seek leaves behind. The tenure after it begins in the generation in
// which the one before it delivered, so of an ack by fields, which has no more than the
// generation to tell by, nobody knows whether it speaks of before or after the seek: but
// for offsets that were not delivered before.
type doubt struct {
	generation int32
	upTo       int64     // the last offset that was delivered before; -1: none
	until      time.Time // when acks of before cannot be due any more; zero: never
}

var noDoubt = doubt{upTo: -1}

// doubts tells whether an ack by fields may be one of before the seek with which the
// tenure began. A negative offset was never delivered, which the ledger tells.
func (t *tenure) doubts(generation int32, upTo int64, now time.Time) bool {
	d := t.doubt
	return generation == t.began && upTo >= 0 && upTo <= d.upTo && (d.until.IsZero() || now.Before(d.until))
}

// note is delivery state for the metadata of a commit of one offset: with another
// offset it means nothing. Immutable.
type note struct {
	at   int64
	text string // of acker.Metadata
}

// waiter is an ack that wants its commit confirmed. The channel has one slot and
// gets the committed offset; it is closed without one when the tenure ends first.
type waiter struct {
	cover int64
	done  chan int64
}

// newTenure begins a tenure at what the broker has committed; offset -1 if nothing.
func newTenure(tp topicPartition, topicID [16]byte, generation int32, at position) *tenure {
	t := &tenure{
		topicPartition: tp, topicID: topicID, id: rand.Uint64(), began: generation,
		start: at.offset, committed: at.offset, metadata: at.metadata,
		doubt: noDoubt,
	}
	t.safe.Store(-1)
	// What an earlier tenure left stands until this one knows more.
	t.noted.Store(&note{at: at.offset, text: at.metadata})
	if m, err := acker.ParseMetadata(at.metadata); err == nil { // else somebody else's
		t.resume = m
	}
	return t
}

// position is what may be committed now: never less than what is. Anybody may call it
// who holds committer.mu.
func (t *tenure) position() position {
	p := position{offset: max(t.safe.Load(), t.committed)}
	if p.offset > t.committed {
		p.offset = unsound(p.offset)
	}
	if n := t.noted.Load(); n != nil && n.at == p.offset {
		p.metadata = n.text
	}
	return p
}

// confirmed is what the broker has. The caller holds committer.mu.
func (t *tenure) confirmed() position { return position{t.committed, t.metadata} }

// confirm records that the broker has p, and tells who waited for it. The caller
// holds committer.mu.
func (t *tenure) confirm(p position) {
	if p.offset < t.committed {
		return
	}
	t.committed, t.metadata = p.offset, p.metadata
	t.waiters = slices.DeleteFunc(t.waiters, func(w waiter) bool {
		if w.cover > p.offset {
			return false
		}
		w.done <- p.offset
		return true
	})
}
