// Package records holds what was read from one Kafka partition: a Batch of
// records laid flat in one arena, so that a record costs a copy and no
// allocation on its way from the client's queue to the request body.
package records

import (
	"slices"
	"sync"
)

// TimestampType says who set a record's timestamp.
type TimestampType uint8

// The values are those of the Kafka client (rd_kafka_timestamp_type_t).
const (
	TimestampNone      TimestampType = 0 // the record carries no timestamp
	TimestampCreate    TimestampType = 1 // set by the producer
	TimestampLogAppend TimestampType = 2 // set by the broker
)

// span is a stretch of the arena; n is -1 for null, which Kafka keeps apart from empty.
type span struct{ at, n int }

// Record is one Kafka record; its bytes live in the Batch that holds it.
type Record struct {
	Offset        int64
	Timestamp     int64 // milliseconds since the epoch; -1 for none
	LeaderEpoch   int32
	TimestampType TimestampType

	key, value  span
	firstHeader int
	headers     int
}

type header struct{ name, value span }

// Batch is a run of records of one partition in ascending offset order, not
// necessarily without holes. The zero value is ready to use. It is not safe for
// concurrent use; slices it hands out are valid until Reset or Free.
type Batch struct {
	Records []Record

	heads []header
	arena []byte
}

// Len is the number of records.
func (b *Batch) Len() int { return len(b.Records) }

// Bytes is the size of all records: keys, values and headers as stored in Kafka.
func (b *Batch) Bytes() int { return len(b.arena) }

// First and Last are the offsets at the two ends; the batch must not be empty.
func (b *Batch) First() int64 { return b.Records[0].Offset }

// Last is the offset of the last record.
func (b *Batch) Last() int64 { return b.Records[len(b.Records)-1].Offset }

// Grow makes room for that many more records and bytes, so that appending them
// allocates nothing.
func (b *Batch) Grow(records, bytes int) {
	b.Records = slices.Grow(b.Records, records)
	b.arena = slices.Grow(b.arena, bytes)
}

// Append copies one record in. A nil key or value is null, an empty one is empty.
// AppendHeader then adds headers to it.
func (b *Batch) Append(r Record, key, value []byte) {
	r.key, r.value = b.copy(key), b.copy(value)
	r.firstHeader, r.headers = len(b.heads), 0
	b.Records = append(b.Records, r)
}

// AppendHeader adds one header to the record appended last. A nil value is null.
func (b *Batch) AppendHeader(name, value []byte) {
	if name == nil {
		name = []byte{}
	}
	b.heads = append(b.heads, header{b.copy(name), b.copy(value)})
	b.Records[len(b.Records)-1].headers++
}

// Key returns the key of record i, nil for null.
func (b *Batch) Key(i int) []byte { return b.bytes(b.Records[i].key) }

// Value returns the value of record i, nil for a tombstone.
func (b *Batch) Value(i int) []byte { return b.bytes(b.Records[i].value) }

// Headers is the number of headers of record i.
func (b *Batch) Headers(i int) int { return b.Records[i].headers }

// Header returns header j of record i, in Kafka's order; a nil value is null.
func (b *Batch) Header(i, j int) (name, value []byte) {
	h := b.heads[b.Records[i].firstHeader+j]
	return b.bytes(h.name), b.bytes(h.value)
}

// Size is the number of bytes of record i: key, value and headers.
func (b *Batch) Size(i int) int {
	r := &b.Records[i]
	n := max(r.key.n, 0) + max(r.value.n, 0)
	for _, h := range b.heads[r.firstHeader : r.firstHeader+r.headers] {
		n += h.name.n + max(h.value.n, 0)
	}
	return n
}

// CopyTo appends the records from..to-1 to dst.
func (b *Batch) CopyTo(dst *Batch, from, to int) {
	for i := from; i < to; i++ {
		dst.Append(b.Records[i], b.Key(i), b.Value(i))
		for j := range b.Headers(i) {
			dst.AppendHeader(b.Header(i, j))
		}
	}
}

// Truncate drops the records from n on, and their bytes.
func (b *Batch) Truncate(n int) {
	if n >= len(b.Records) {
		return
	}
	r := &b.Records[n]
	b.heads = b.heads[:r.firstHeader]
	b.arena = b.arena[:r.key.at]
	b.Records = b.Records[:n]
}

// Reset empties the batch and keeps its memory.
func (b *Batch) Reset() {
	b.Records, b.heads, b.arena = b.Records[:0], b.heads[:0], b.arena[:0]
}

func (b *Batch) copy(p []byte) span {
	if p == nil {
		return span{len(b.arena), -1}
	}
	s := span{len(b.arena), len(p)}
	b.arena = append(b.arena, p...)
	return s
}

func (b *Batch) bytes(s span) []byte {
	switch {
	case s.n < 0:
		return nil
	case s.n == 0:
		return []byte{} // a slice of an arena that is still nil would be nil
	}
	return b.arena[s.at : s.at+s.n : s.at+s.n]
}

// maxPooled bounds what an idle batch may keep; a larger arena goes back to the collector.
const maxPooled = 2 << 20

var pool = sync.Pool{New: func() any { return new(Batch) }}

// Get returns an empty batch, maybe with memory of an earlier one. Any goroutine may call it.
func Get() *Batch { return pool.Get().(*Batch) }

// Free gives the batch back; nothing taken from it may be used afterwards.
func (b *Batch) Free() {
	if cap(b.arena) > maxPooled {
		b.arena = nil
	}
	b.Reset()
	pool.Put(b)
}
