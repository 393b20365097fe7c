package groupmanager

import (
	"container/heap"
	"hash/maphash"
	"sort"
	"time"

	"github.com/kpush/kpush/internal/records"
)

// compactAbove is how many bytes of records that have left may lie in a keyQueue
// besides as many as still wait there.
const compactAbove = 64 << 10

// keySeed makes hashes of keys that nobody outside can aim at.
var keySeed = maphash.MakeSeed()

// keyQueue is what was read of a partition and waits for its turn with ordering key:
// a record goes when no delivery holds its key, and the records of one key go in their
// order. Keys are told apart by their hashes: two that share one are in order with each
// other, too. A record without a key has one of its own.
//
// It is plain data, owned by the partition goroutine, and holds at most the records it
// is given, and about twice their bytes.
type keyQueue struct {
	batch *records.Batch // ascending; those that have left are among them
	slots []keySlot      // of batch's records
	bytes int            // of the records that wait
	count int            // of them

	keys  map[uint64]*keyLine // with records that wait, or held
	ready readyKeys           // not held and with records that wait, the earliest first
	free  []*keyLine          // to be used again

	readyCount, readyBytes int       // of the records of ready keys
	since                  time.Time // when the first of them could go; zero when there is none
}

// keySlot is what a keyQueue knows of a record besides the record.
type keySlot struct {
	key  uint64
	next int64 // offset of the next record of the key; -1 for none
	left bool
}

// keyLine is a key and its records that wait.
type keyLine struct {
	key         uint64
	first, last int64 // offsets of those that wait; first is -1 for none
	count       int
	bytes       int
	held        int // records in deliveries that are not done with them
	at          int // in ready; -1: not there
}

func newKeyQueue() *keyQueue { return &keyQueue{keys: map[uint64]*keyLine{}} }

// room makes the batch hold what waits only, if it has grown far beyond that, and
// returns it for more records to be appended; entered must then be told of each.
func (q *keyQueue) room() *records.Batch {
	switch {
	case q.batch == nil:
		q.batch = records.Get()
	case q.count == 0:
		q.batch.Reset()
		q.slots = q.slots[:0]
	case q.batch.Bytes()-q.bytes > q.bytes+compactAbove || len(q.slots) > 2*q.count+readAhead:
		rest, slots := records.Get(), q.slots[:0]
		for i, s := range q.slots {
			if !s.left {
				q.batch.CopyTo(rest, i, i+1)
				slots = append(slots, s)
			}
		}
		q.batch.Free()
		q.batch, q.slots = rest, slots
	}
	return q.batch
}

// entered takes in the next record of the batch that was appended to it. One that is
// not wanted leaves at once.
func (q *keyQueue) entered(wanted bool) {
	i := len(q.slots)
	offset := q.batch.Records[i].Offset
	if !wanted {
		q.slots = append(q.slots, keySlot{next: -1, left: true})
		return
	}
	var key uint64
	if k := q.batch.Key(i); k != nil {
		key = maphash.Bytes(keySeed, k)
	} else {
		key = maphash.Comparable(keySeed, offset)
	}
	q.slots = append(q.slots, keySlot{key: key, next: -1})
	size := q.batch.Size(i)
	q.count++
	q.bytes += size
	line := q.line(key)
	if line.first < 0 {
		line.first = offset
	} else {
		q.slots[q.index(line.last)].next = offset
	}
	line.last = offset
	line.count++
	line.bytes += size
	switch {
	case line.at >= 0:
		q.readyCount++
		q.readyBytes += size
	case line.held == 0:
		q.push(line)
	}
}

// line finds the line of a key, or makes one.
func (q *keyQueue) line(key uint64) *keyLine {
	line := q.keys[key]
	if line != nil {
		return line
	}
	if n := len(q.free); n > 0 {
		line, q.free = q.free[n-1], q.free[:n-1]
	} else {
		line = new(keyLine)
	}
	*line = keyLine{key: key, first: -1, last: -1, at: -1}
	q.keys[key] = line
	return line
}

func (q *keyQueue) push(line *keyLine) {
	heap.Push(&q.ready, line)
	q.readyCount += line.count
	q.readyBytes += line.bytes
}

// index finds a record that waits.
func (q *keyQueue) index(offset int64) int {
	return sort.Search(len(q.slots), func(i int) bool { return q.batch.Records[i].Offset >= offset })
}

// first is the offset of the earliest record that may go; -1 for none.
func (q *keyQueue) first() int64 {
	if len(q.ready) == 0 {
		return -1
	}
	return q.ready[0].first
}

// cut takes the records of the next delivery, the earliest first: as many as may go
// and fit, at least one, which there must be. Their keys, in the same order, are held
// until each was released.
func (q *keyQueue) cut(maxRecords, maxBytes int) (*records.Batch, []uint64) {
	b, keys := records.Get(), make([]uint64, 0, min(maxRecords, q.readyCount))
	for size := 0; len(keys) < maxRecords && len(q.ready) > 0; {
		line := q.ready[0]
		i := q.index(line.first)
		s := q.batch.Size(i)
		if len(keys) > 0 && size+s > maxBytes {
			break
		}
		size += s
		q.batch.CopyTo(b, i, i+1)
		q.slots[i].left = true
		q.count--
		q.bytes -= s
		q.readyCount--
		q.readyBytes -= s
		keys = append(keys, line.key)
		line.held++
		line.count--
		line.bytes -= s
		line.first = q.slots[i].next // of the same delivery, if there is room
		if line.count == 0 {
			heap.Pop(&q.ready)
		} else {
			heap.Fix(&q.ready, 0)
		}
	}
	for _, key := range keys {
		if line := q.keys[key]; line.at >= 0 {
			heap.Remove(&q.ready, line.at)
			q.readyCount -= line.count
			q.readyBytes -= line.bytes
		}
	}
	return b, keys
}

// release tells that a delivery is done with a record of that key.
func (q *keyQueue) release(key uint64) {
	line := q.keys[key]
	line.held--
	switch {
	case line.held > 0:
	case line.count > 0:
		q.push(line)
	default:
		delete(q.keys, key)
		if len(q.free) < readAhead {
			q.free = append(q.free, line)
		}
	}
}

// held is the number of records that wait for a delivery that holds their key.
func (q *keyQueue) held() int { return q.count - q.readyCount }

// drop lets go of everything.
func (q *keyQueue) drop() {
	if q.batch != nil {
		q.batch.Free()
	}
	*q = *newKeyQueue()
}

// readyKeys is a heap of lines, that with the earliest record first.
type readyKeys []*keyLine

func (r readyKeys) Len() int           { return len(r) }
func (r readyKeys) Less(i, j int) bool { return r[i].first < r[j].first }
func (r readyKeys) Swap(i, j int) {
	r[i], r[j] = r[j], r[i]
	r[i].at, r[j].at = i, j
}

func (r *readyKeys) Push(x any) {
	line := x.(*keyLine)
	line.at = len(*r)
	*r = append(*r, line)
}

func (r *readyKeys) Pop() any {
	n := len(*r) - 1
	line := (*r)[n]
	(*r)[n] = nil
	*r = (*r)[:n]
	line.at = -1
	return line
}
