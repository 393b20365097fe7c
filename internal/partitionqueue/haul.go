package partitionqueue

// #include "librdkafka.h"
import "C"

import (
	"sync"

	"github.com/confluentinc/confluent-kafka-go/v2/kafka"

	"github.com/kpush/kpush/internal/records"
)

// maxHaul bounds how many messages cross at once. They pin the fetch responses
// they lie in until they are released, and a thousand share a crossing well enough.
const maxHaul = 1000

// Room for headers: what a haul begins with (more cost one more crossing, once),
// and what an idle one may keep.
const (
	startHeaders  = 64
	pooledHeaders = 16 * maxHaul
)

// haul is what one crossing brought: messages in C memory, laid flat. Those from
// next on were not taken out yet.
type haul struct {
	messages []C.uintptr_t
	records  []C.record_t
	headers  []C.header_t

	next, nextHeader int
	bytes            int
	short            bool // fewer than asked for: the queue was seen empty
}

// hauls are shared by all queues: only those being read at the moment need one.
var hauls = sync.Pool{New: func() any { return &haul{headers: make([]C.header_t, startHeaders)} }}

// consume takes up to limit messages from the queue, nil if it is empty. What it
// returns has to be released.
func consume(queue *C.rd_kafka_queue_t, limit int) *haul {
	limit = min(limit, maxHaul)
	h := hauls.Get().(*haul)
	if cap(h.records) < limit {
		h.messages, h.records = make([]C.uintptr_t, limit), make([]C.record_t, limit)
	}
	h.messages, h.records = h.messages[:limit], h.records[:limit]
	totals := C.consume(queue, &h.messages[0], &h.records[0], C.int32_t(limit), &h.headers[0], C.int32_t(len(h.headers)))
	n := int(totals.records)
	if n == 0 {
		hauls.Put(h)
		return nil
	}
	if int(totals.headers) > len(h.headers) {
		h.headers = make([]C.header_t, totals.headers)
		C.lay_headers(&h.messages[0], &h.records[0], totals.records, &h.headers[0], totals.headers)
	}
	h.messages, h.records = h.messages[:n], h.records[:n]
	h.next, h.nextHeader = 0, 0
	h.bytes, h.short = int(totals.bytes), n < limit
	return h
}

// left is the number of messages not taken out yet.
func (h *haul) left() int { return len(h.records) - h.next }

// unload copies up to limit records to dst, passing over those before offset
// from. It stops behind an error, with what follows left for the next call.
func (h *haul) unload(dst *records.Batch, limit int, from int64) (n int, failed *Error) {
	dst.Grow(min(limit, h.left()), h.bytes)
	for ; n < limit && h.next < len(h.records); h.next++ {
		r := &h.records[h.next]
		if r.err != 0 {
			h.next++
			return n, &Error{
				Code:    kafka.ErrorCode(r.err),
				Message: string(bytesAt(&r.value, r.value_len)),
				Offset:  int64(r.offset),
			}
		}
		if int64(r.offset) < from {
			h.nextHeader += int(r.headers)
			continue
		}
		dst.Append(records.Record{
			Offset:        int64(r.offset),
			Timestamp:     int64(r.timestamp),
			LeaderEpoch:   int32(r.leader_epoch),
			TimestampType: records.TimestampType(r.timestamp_type),
		}, bytesAt(&r.key, r.key_len), bytesAt(&r.value, r.value_len))
		for range r.headers {
			head := &h.headers[h.nextHeader]
			dst.AppendHeader(bytesAt(&head.name, head.name_len), bytesAt(&head.value, head.value_len))
			h.nextHeader++
		}
		n++
	}
	return n, nil
}

// release gives the messages back to the C library; the haul must not be used again.
func (h *haul) release() {
	C.release(&h.messages[0], C.int32_t(len(h.messages)))
	if len(h.headers) > pooledHeaders {
		h.headers = make([]C.header_t, startHeaders)
	}
	hauls.Put(h)
}
