package groupmanager

import (
	"cmp"
	"slices"
	"time"

	"github.com/kpush/kpush/acker"
	"github.com/kpush/kpush/webhooks"
)

// keyWindow is how many records deliveries may run ahead of the lowest open one with
// ordering key, so that a key that is held for long does not let the books, and what
// could come again, grow without end.
const keyWindow = 100_000

// keyOrder is what a lane has for ordering key: deliveries are made of records whose
// keys no open delivery holds, and the others wait. A delivery that failed keeps its
// keys, all of them, and no request is counted for it while it waits: other keys go on.
//
// Owned by the partition goroutine.
type keyOrder struct {
	books *acker.KeyedLedger
	queue *keyQueue

	maxRecords, maxBytes int // that may wait; then nothing more is read

	next []uint64    // keys of the next delivery
	runs []acker.Run // scratch
}

func newKeyOrder(w *webhooks.Webhook) *keyOrder {
	return &keyOrder{
		books: acker.NewKeyedLedger(), queue: newKeyQueue(),
		maxRecords: max(w.Fetch.PrefetchRecords, w.Batch.MaxRecords),
		maxBytes:   max(w.Fetch.PrefetchBytes, w.Batch.MaxBytes),
	}
}

// full tells whether as much waits, or as much is open above the committed offset, as may.
func (k *keyOrder) full() bool {
	return k.queue.count >= k.maxRecords || k.queue.bytes >= k.maxBytes || k.books.Len() >= keyWindow
}

// fill reads until a delivery of that size may go, nothing more may wait, or the queue
// is empty, and tells whether there is nothing to wait for. What was read before an
// error stays.
func (k *keyOrder) fill(f *fetch, maxRecords, maxBytes int) (full bool, err error) {
	for {
		q := k.queue
		if q.readyCount >= maxRecords || q.readyBytes >= maxBytes || k.full() {
			return true, nil
		}
		if f.empty {
			return false, nil
		}
		want := min(max(maxRecords, readAhead), k.maxRecords-q.count, keyWindow-k.books.Len())
		want = min(want, max(1, (k.maxBytes-q.bytes)/f.size))
		b := q.room()
		before, first := b.Bytes(), b.Len()
		got, err := f.source.Read(b, want)
		if got > 0 {
			f.size = max(1, (f.size+(b.Bytes()-before)/got)/2)
		}
		for i := first; i < b.Len(); i++ {
			wanted, err := k.books.Enter(b.Records[i].Offset)
			if err != nil {
				return false, err
			}
			q.entered(wanted)
		}
		if err != nil {
			return false, err
		}
		if got < want {
			f.empty = true
		}
	}
}

// room is how many records the next delivery may have. With all that the commit's
// metadata has place for in use, only the record that holds the commit back may go.
func (k *keyOrder) room() int {
	if n := k.books.Room(); n > 0 {
		return n
	}
	if k.books.Len() == 0 || k.books.Head() == nil && k.queue.first() == k.books.Next() {
		return 1
	}
	return 0
}

// release lets the keys of what o is done with go. While a request of o is under way
// it keeps them, whatever was said about its records meanwhile.
func (k *keyOrder) release(o *outgoing) {
	if o.inFlight {
		return
	}
	for _, key := range o.late {
		k.queue.release(key)
	}
	o.late = nil
	for o.freed < len(o.keys) && o.batch.Records[o.freed].Offset < o.book.First() {
		k.queue.release(o.keys[o.freed])
		o.freed++
	}
}

// cut divides the keys of o, whose records from n on are now those of tail.
func (k *keyOrder) cut(o, tail *outgoing, n int) {
	if o.part == nil {
		o.part = o
	}
	tail.part = o.part
	o.keys, tail.keys = o.keys[:n], o.keys[n:]
}

// parted gives the pieces of o, whose batch still holds the records from end on, their
// keys, and o those of what was acked or skipped, to be let go by release.
func (k *keyOrder) parted(o *outgoing, end int, made []*outgoing) {
	if o.part == nil {
		o.part = o
	}
	at := end
	for _, piece := range made {
		for ; o.batch.Records[at].Offset < piece.batch.First(); at++ {
			o.late = append(o.late, o.keys[at])
		}
		if piece.book.State() == acker.Settled {
			continue // given up at once, which a request of o that carries it does not know
		}
		n := piece.batch.Len()
		piece.keys, piece.part = o.keys[at:at+n], o.part
		at += n
	}
	o.late = append(o.late, o.keys[at:]...)
	o.keys = o.keys[:end]
}

// pumpKeys is pump with ordering key.
func (p *partition) pumpKeys() (held bool) {
	k := p.lane.keys
	for p.lane.room() && !p.broke {
		now := time.Now()
		if p.held(now) {
			return true
		}
		limit := p.lane.webhook.Batch.MaxBytes
		full, err := k.fill(p.fetch, p.lane.limit, limit)
		if err != nil {
			p.broke = true
			p.fault(p.tenure, err)
		}
		if k.queue.count == 0 {
			p.atRest()
		}
		room := k.room()
		if k.queue.readyCount == 0 || room == 0 {
			k.queue.since = time.Time{}
			return false
		}
		if k.queue.since.IsZero() {
			k.queue.since = now
		}
		if !full && (p.linger > 0 && now.Before(k.queue.since.Add(p.linger)) || p.sieve.gathers(k.queue.since, now)) {
			return false
		}
		pass, ok := p.lane.mayBegin(now)
		if !ok {
			return false
		}
		b, keys := k.queue.cut(min(p.lane.limit, room), limit)
		k.queue.since = now // of what is left
		k.next = keys
		if err := p.lane.deliver(b, pass, now); err != nil {
			// Cannot be: what the queue holds was entered, and is in no delivery.
			b.Free()
			p.broke = true
			p.fault(p.tenure, err)
			return false
		}
		p.lane.arrange()
	}
	return false
}

// arrange brings the deliveries into the order of their first records again.
func (l *lane) arrange() {
	byFirst := func(a, b *outgoing) int { return cmp.Compare(a.book.First(), b.book.First()) }
	if !slices.IsSortedFunc(l.open, byFirst) {
		slices.SortStableFunc(l.open, byFirst)
	}
}

// keyRoom is room with ordering key. A delivery that waits for its next attempt is not
// in flight, so that others can go on; but there is an end to how many may.
func (l *lane) keyRoom() bool {
	return len(l.open) < windowFactor*l.webhook.MaxInFlight && l.busy() < l.webhook.MaxInFlight && l.keys.room() > 0
}

// busy counts the deliveries in flight: with a request under way, or with the receiver,
// which will ack them.
func (l *lane) busy() int {
	n := l.inFlight
	if len(l.open) == n {
		return n
	}
	for _, o := range l.open {
		if !o.inFlight && o.book.State() == acker.Leased {
			n++
		}
	}
	return n
}

// sendDueKeys is sendDue with ordering key.
func (l *lane) sendDueKeys(now time.Time) {
	if len(l.open) == l.inFlight {
		return
	}
	room := l.webhook.MaxInFlight - l.busy()
	for _, o := range l.open {
		if room <= 0 {
			return
		}
		if o.inFlight || now.Before(o.due) || !l.turn(o) {
			continue
		}
		switch o.book.State() {
		case acker.Waiting, acker.Nacked, acker.Rejected:
			if l.mayGo(o, now) {
				l.start(o, now)
				room--
			}
		}
	}
}

// turn tells whether a delivery need not wait for another: parts of one that was cut
// may have records of one key, which go in their order.
func (l *lane) turn(o *outgoing) bool {
	if o.part == nil {
		return true
	}
	for _, before := range l.open {
		if before == o {
			break
		}
		if before.part != o.part {
			continue
		}
		carries := before.inFlight && before.sent.Last >= o.book.First() // it was cut while its request is under way
		keys := o.keys[o.freed:]
		if carries || shareKeys(before.keys[before.freed:], keys) || shareKeys(before.late, keys) {
			return false
		}
	}
	return true
}

// shareKeys tells whether two deliveries have records of one key. After a partial ack
// there may be hundreds of one record each: those are not worth sorting.
func shareKeys(a, b []uint64) bool {
	if len(a) > len(b) {
		a, b = b, a
	}
	if len(a) <= 4 {
		return slices.ContainsFunc(a, func(key uint64) bool { return slices.Contains(b, key) })
	}
	in := slices.Sorted(slices.Values(a))
	return slices.ContainsFunc(b, func(key uint64) bool {
		_, found := slices.BinarySearch(in, key)
		return found
	})
}

// openID is the id of what is open of a delivery that others may lie between.
func (l *lane) openID(o *outgoing) string {
	l.keys.runs = o.book.Open(l.keys.runs[:0])
	return l.ids.IDOfRuns(l.webhook.Tenant, l.webhook.ID, l.tenure.topic, l.tenure.topicID, l.tenure.partition, l.keys.runs)
}

// waitingSince is when the first record that may go was there; zero when none is.
func (p *partition) waitingSince() time.Time {
	switch {
	case p.lane.keys != nil:
		return p.lane.keys.queue.since
	case p.fetch.waiting() > 0:
		return p.fetch.since
	}
	return time.Time{}
}
