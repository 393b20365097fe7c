package partitionqueue

// #include <stdlib.h>
// #include "librdkafka.h"
import "C"

import (
	"errors"
	"fmt"
	"sync"
	"unsafe"

	"github.com/confluentinc/confluent-kafka-go/v2/kafka"

	"github.com/kpush/kpush/internal/records"
)

// ErrClosed says that the queue, or what holds it, was closed.
var ErrClosed = errors.New("the partition queue is closed")

// Error is an error the client put in the queue, between records.
type Error struct {
	Code    kafka.ErrorCode
	Message string
	Offset  int64 // of the record the client could not get; negative when it does not say
}

func (e *Error) Error() string {
	if e.Message == "" {
		return e.Code.String()
	}
	return fmt.Sprintf("%s: %s", e.Code, e.Message)
}

// Queue is the queue of one partition. Read and Position are for one goroutine,
// its reader; Close may come from another and waits for a Read under way.
type Queue struct {
	queues *Queues
	slot   uint32
	wake   chan struct{}

	mu        sync.Mutex // never waited for in the normal course: it keeps a late Read off freed memory
	queue     *C.rd_kafka_queue_t
	partition *C.rd_kafka_topic_partition_list_t // of one, for asking its position
	rest      *haul                              // what came behind an error, nil for nothing
	next      int64                              // the offset after the last record read; 0 before the first
	failedAt  int64                              // offset of the last error, -1 once a record has passed it
}

// newQueue splits a partition's queue off; its wake-ups go to fd with slot as payload.
func newQueue(qs *Queues, topic string, partition int32, slot uint32) (*Queue, error) {
	name := C.CString(topic)
	defer C.free(unsafe.Pointer(name))
	queue := C.rd_kafka_queue_get_partition(qs.client, name, C.int32_t(partition))
	if queue == nil {
		return nil, fmt.Errorf("the client has no queue for %s [%d]", topic, partition)
	}
	q := &Queue{
		queues:    qs,
		slot:      slot,
		wake:      make(chan struct{}, 1),
		queue:     queue,
		partition: C.rd_kafka_topic_partition_list_new(1),
		failedAt:  -1,
	}
	C.rd_kafka_topic_partition_list_add(q.partition, name, C.int32_t(partition))
	C.rd_kafka_queue_forward(queue, nil)
	payload := C.uint32_t(slot) // the client keeps a copy
	C.rd_kafka_queue_io_event_enable(queue, C.int(qs.fd), unsafe.Pointer(&payload), C.size_t(unsafe.Sizeof(payload)))
	return q, nil
}

// Read appends up to limit records to dst without blocking. Fewer without an
// error, 0 too, mean that the queue was seen empty: what comes after that
// signals Wake. An *Error stands behind the records that came before it; what
// follows it comes with the next Read, and no wake-up announces that.
//
// Offsets ascend over the whole life of a Queue; to go back takes another one. The client alone does not see
// to that: at every cooperative rebalance it pauses the partitions that stay
// and resumes them where it believes the reader to be. A read under way at that
// moment it has missed, and a partition that was assigned at a logical offset
// can go back to its beginning. What it fetches once more is passed over here.
func (q *Queue) Read(dst *records.Batch, limit int) (n int, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.queue == nil {
		return 0, ErrClosed
	}
	for n < limit {
		h := q.rest
		if h == nil {
			h = consume(q.queue, limit-n)
		}
		if h == nil {
			return n, nil
		}
		q.rest = nil
		got, failed := h.unload(dst, limit-n, q.next)
		n += got
		if got > 0 {
			q.next = dst.Last() + 1
		}
		if q.next > q.failedAt {
			q.failedAt = -1
		}
		short := h.short
		if h.left() > 0 {
			q.rest = h
		} else {
			h.release()
		}
		if failed != nil {
			if failed.Offset >= q.next {
				q.failedAt = failed.Offset
			}
			return n, failed
		}
		if short && q.rest == nil {
			return n, nil
		}
	}
	return n, nil
}

// Wake has a value when something may have come since Read found the queue
// empty. It is never closed, and may signal for nothing.
func (q *Queue) Wake() <-chan struct{} { return q.wake }

// Position is the next offset after everything that was read, with transaction
// markers and aborted records the reader never sees; -1 before the first. It is
// a place to commit once Read has found the queue empty.
func (q *Queue) Position() int64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.queue == nil {
		return -1
	}
	at := int64(C.position(q.queues.client, q.partition))
	if q.failedAt >= 0 && at == q.failedAt+1 {
		// To the client an error counts as read like a record, but the record at
		// its offset is still to come.
		return q.failedAt
	}
	return max(at, -1)
}

// Close drops what was not read and gives the queue back to the client. It must
// come before the partition is unassigned, or moved. A second Close does nothing.
func (q *Queue) Close() {
	if q.close() {
		q.queues.forget(q)
	}
}

func (q *Queue) close() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.queue == nil {
		return false
	}
	// The events go first: after this call nothing is written to the pipe for us.
	C.rd_kafka_queue_io_event_enable(q.queue, -1, nil, 0)
	if q.rest != nil {
		q.rest.release()
		q.rest = nil
	}
	// The client itself keeps what it has prefetched until the partition comes
	// back to it, which may be never. During a revoke it fetches no more.
	for h := consume(q.queue, maxHaul); h != nil; h = consume(q.queue, maxHaul) {
		h.release()
	}
	C.rd_kafka_topic_partition_list_destroy(q.partition)
	C.rd_kafka_queue_destroy(q.queue)
	q.queue, q.partition = nil, nil
	return true
}

// signal wakes the reader, or leaves the wake-up that already waits for it.
func (q *Queue) signal() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}
