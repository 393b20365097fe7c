package groupmanager

import (
	"time"

	"github.com/kpush/kpush/internal/records"
)

// source is a partition's own queue in the Kafka client, *partitionqueue.Queue
// outside of tests. It has one reader, the partition goroutine.
type source interface {
	// Read appends up to max records to dst without blocking; 0 and nil mean empty.
	Read(dst *records.Batch, max int) (int, error)
	// Wake has a value when something may have come since Read found nothing.
	Wake() <-chan struct{}
	// Position is the next offset after all that was read, transaction markers included; -1 when unknown.
	Position() int64
}

const (
	// readAhead is how many records one read asks for when deliveries are small:
	// a crossing into the client costs far more than copying a record.
	readAhead = 64
	// guessedSize of a record, before any was seen.
	guessedSize = 1024
)

// fetch is the fetch side of a partition: its queue, what was read from it and
// not yet cut into a delivery. It knows nothing of webhooks.
//
// Owned by the partition goroutine.
type fetch struct {
	source source
	ahead  *records.Batch // nil when nothing waits
	next   int            // first record of ahead that was not cut yet
	bytes  int            // of ahead's records from next on
	size   int            // running mean of a record's bytes
	empty  bool           // the queue had nothing more when it was read last
	since  time.Time      // when the first waiting record was read
}

func newFetch(s source) *fetch { return &fetch{source: s, size: guessedSize} }

// waiting is the number of records read and not yet cut.
func (f *fetch) waiting() int {
	if f.ahead == nil {
		return 0
	}
	return f.ahead.Len() - f.next
}

// fill reads until a delivery of that size is full or the queue is empty, and
// tells whether it is full. What was read before an error stays.
func (f *fetch) fill(maxRecords, maxBytes int) (full bool, err error) {
	for {
		n := f.waiting()
		if n >= maxRecords || (n > 0 && f.bytes >= maxBytes) {
			return true, nil
		}
		if f.empty {
			return false, nil
		}
		if n == 0 {
			f.since = time.Now()
		}
		f.compact()
		want := max(maxRecords, readAhead) - n
		want = min(want, max(1, (max(maxBytes, readAhead*guessedSize)-f.bytes)/f.size))
		before := f.ahead.Bytes()
		got, err := f.source.Read(f.ahead, want)
		if got > 0 {
			read := f.ahead.Bytes() - before
			f.bytes += read
			f.size = max(1, (f.size+read/got)/2)
		}
		if err != nil {
			return false, err
		}
		if got < want {
			f.empty = true
			if f.ahead.Len() == 0 {
				f.release()
			}
		}
	}
}

// compact makes ahead hold the waiting records only, so that it cannot grow without end.
func (f *fetch) compact() {
	switch {
	case f.ahead == nil:
		f.ahead = records.Get()
	case f.next == f.ahead.Len():
		f.ahead.Reset()
	case f.next > 0:
		rest := records.Get()
		f.ahead.CopyTo(rest, f.next, f.ahead.Len())
		f.ahead.Free()
		f.ahead = rest
	default:
		return
	}
	f.next, f.bytes = 0, f.ahead.Bytes()
}

// offset is that of the first waiting record. There must be one.
func (f *fetch) offset() int64 { return f.ahead.Records[f.next].Offset }

// last is the offset of the last waiting record. There must be one.
func (f *fetch) last() int64 { return f.ahead.Last() }

// drop lets go of the waiting records below an offset, and tells whether there
// were any.
func (f *fetch) drop(below int64) bool {
	end, size := f.next, 0
	for f.ahead != nil && end < f.ahead.Len() && f.ahead.Records[end].Offset < below {
		size += f.ahead.Size(end)
		end++
	}
	if end == f.next {
		return false
	}
	f.pass(end, size)
	return true
}

// cut takes the next delivery's records: as many as fit and are not above last, at
// least one. There must be one waiting.
func (f *fetch) cut(maxRecords, maxBytes int, last int64) *records.Batch {
	n := f.waiting()
	if f.next == 0 && n <= maxRecords && (f.bytes <= maxBytes || n == 1) && f.ahead.Last() <= last {
		b := f.ahead
		f.ahead, f.bytes = nil, 0
		return b
	}
	end, size := f.next+1, f.ahead.Size(f.next)
	for end < f.ahead.Len() && end-f.next < maxRecords && f.ahead.Records[end].Offset <= last {
		s := f.ahead.Size(end)
		if size+s > maxBytes {
			break
		}
		size += s
		end++
	}
	b := records.Get()
	f.ahead.CopyTo(b, f.next, end)
	f.pass(end, size)
	return b
}

// pass moves on to record end of ahead, over that many bytes.
func (f *fetch) pass(end, size int) {
	f.next, f.bytes = end, f.bytes-size
	f.since = time.Now()
	if f.next == f.ahead.Len() {
		f.release()
	}
}

// release gives the memory of an empty buffer back.
func (f *fetch) release() {
	if f.ahead != nil {
		f.ahead.Free()
	}
	f.ahead, f.next, f.bytes = nil, 0, 0
}
