package groupmanager

import (
	"errors"
	"slices"
	"time"

	"github.com/kpush/kpush/acker"
)

// noteInterval is how often at most delivery state that changes all the time is
// written down for the committer.
const noteInterval = 50 * time.Millisecond

// progress is what a lane has told upward. Owned by the partition goroutine.
type progress struct {
	told  note        // the last one
	at    time.Time   // when it was written down
	due   time.Time   // when there is something new to tell; zero when there is not
	acked []acker.Run // scratch
	text  []byte      // scratch
}

// resume goes on with what the tenure before this one left in the metadata of its
// commit. It comes before the first delivery.
func (l *lane) resume() { l.ledger.ResumeAcked(l.tenure.resume.Acked) }

// settle lets go of what is done and tells the progress.
func (l *lane) settle() {
	l.open = slices.DeleteFunc(l.open, func(o *outgoing) bool {
		if l.keys != nil {
			l.keys.release(o)
		}
		if o.inFlight || o.book.State() != acker.Settled {
			return false
		}
		l.delivered(o.batch.Len() - o.givenUp)
		o.free()
		return true
	})
	if len(l.open) > 0 {
		o := l.open[0]
		l.tenure.oldest.Store(o.batch.Records[o.first()].Timestamp)
	} else {
		l.tenure.oldest.Store(0)
	}
	l.tell(false)
}

// tell publishes how far the group may commit, and the delivery state that goes
// into the metadata of that commit: the attempts of the delivery at the head, once
// one has failed or waits for its ack, and what is acked above it. A plain first
// attempt has no state worth keeping, and costs nothing here.
//
// State is written down every noteInterval at most, unless it is urgent. An offset
// above which something is acked waits for it: committed alone it would let that
// come again after a crash.
func (l *lane) tell(urgent bool) {
	next, head, gap := l.ledger.Next(), l.ledger.Head(), l.ledger.Gap()
	if !gap {
		l.publish(l.tenure, next)
	}
	l.progress.due = time.Time{}
	tries := l.tries(head)
	if next < 0 || tries == 0 && !gap {
		return
	}
	now := time.Now()
	if due := l.progress.at.Add(noteInterval); now.Before(due) && !urgent {
		l.progress.due = due
		return
	}
	l.progress.at = now
	m := acker.Metadata{Attempts: tries}
	if tries > 0 {
		m.FirstAttempt = head.FirstAttempt()
	}
	text := l.describe(m)
	l.publish(l.tenure, next)
	if told := &l.progress.told; told.at != next || told.text != string(text) {
		l.progress.told = note{at: next, text: string(text)}
		l.note(l.tenure, &note{at: next, text: told.text})
	}
}

// tries counts the attempts of the head that have failed or wait for their ack. One
// under way is not counted: if it is cut, it has not failed. Nor are those that led to
// a cut: the next owner makes its deliveries as large as ever, and cuts them again; nor
// probes before the backoff was over.
func (l *lane) tries(head *acker.Delivery) int {
	if head == nil {
		return 0
	}
	n := head.Attempts()
	if head.State() == acker.Sent {
		n--
	}
	if n > 0 {
		for _, o := range l.open {
			if o.book == head {
				return n - o.cuts - o.paced.uncounted(head.State() == acker.Sent)
			}
		}
	}
	return n
}

// describe writes m with what is acked above the head. The bytes are valid until
// the next call.
func (l *lane) describe(m acker.Metadata) []byte {
	l.progress.acked = l.ledger.Acked(l.progress.acked[:0])
	m.Acked = l.progress.acked
	text, err := m.Append(l.progress.text[:0])
	for errors.Is(err, acker.ErrMetadataTooLarge) && len(m.Acked) > 0 {
		// A partial ack, or values that are not JSON, may have left more pieces than there
		// is room for. What is left out comes again with the next tenure.
		m.Acked = m.Acked[:len(m.Acked)/2]
		text, err = m.Append(l.progress.text[:0])
	}
	if err != nil {
		l.logger.Error("delivery state could not be written down", "topic", l.tenure.topic, "partition", l.tenure.partition, "error", err)
	}
	l.progress.text = text
	return text
}
