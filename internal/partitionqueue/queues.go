package partitionqueue

// #include "librdkafka.h"
import "C"

import (
	"encoding/binary"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/confluentinc/confluent-kafka-go/v2/kafka"
)

// slotSize is the size of a wake-up in the pipe: the number of a queue's slot.
const slotSize = 4

// pipeRead is how much is read from the pipe at once: no more than the smallest
// pipe there is can hold, see Queues.listen.
const pipeRead = 4096

// Queues holds all split queues of one consumer, the pipe into which the C
// library writes when one of them is no longer empty, and the goroutine that
// reads it. All methods may be called concurrently.
type Queues struct {
	read, write *os.File
	fd          uintptr       // of write
	done        chan struct{} // closed when listen has returned

	consumer *kafka.Consumer
	// client is fixed; the lock is held for reading while it is used, so that
	// nobody uses it after Close, when the consumer may go.
	using  sync.RWMutex
	client *C.rd_kafka_t
	closed bool

	mu    sync.Mutex
	slots []*Queue // nil where free
}

// Open prepares a consumer for splitting queues off. The consumer must not be
// closed before the Queues are.
func Open(c *kafka.Consumer) (*Queues, error) {
	client, err := clientOf(c)
	if err != nil {
		return nil, err
	}
	read, write, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("making the wake-up pipe: %w", err)
	}
	q := &Queues{read: read, write: write, done: make(chan struct{}), consumer: c, client: client}
	// Not write.Fd(), which makes the file blocking.
	if err := control(write, func(fd uintptr) { q.fd = fd }); err != nil {
		_ = read.Close()
		_ = write.Close()
		return nil, fmt.Errorf("making the wake-up pipe: %w", err)
	}
	go q.listen()
	return q, nil
}

func control(f *os.File, use func(fd uintptr)) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	return raw.Control(use)
}

// Split splits the queue of a partition off the consumer's: from now on its
// records come out of the Queue alone. It must come before IncrementalAssign,
// or the first records may go the other way; a partition that was split off before
// and is still assigned has no other way. The Queue has to be closed.
func (q *Queues) Split(topic string, partition int32) (*Queue, error) {
	q.using.RLock()
	defer q.using.RUnlock()
	if q.closed {
		return nil, ErrClosed
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	slot := 0
	for slot < len(q.slots) && q.slots[slot] != nil {
		slot++
	}
	queue, err := newQueue(q, topic, partition, uint32(slot))
	if err != nil {
		return nil, err
	}
	if slot == len(q.slots) {
		q.slots = append(q.slots, nil)
	}
	q.slots[slot] = queue
	queue.signal() // nothing is there yet, but a reader that looks once too often is safe
	return queue, nil
}

// Generation is the consumer's generation in its group; -1 when it is in none,
// also after it was fenced, and after Close.
func (q *Queues) Generation() int32 {
	q.using.RLock()
	defer q.using.RUnlock()
	if q.closed {
		return -1
	}
	return int32(C.generation(q.client))
}

// Leave has a dynamic member of the classic protocol leave its group: it
// unsubscribes, and has the consumer polled until the client has sent word to the
// coordinator, or patience is over. The rebalance callback, which poll calls, has
// to give up what is still assigned. Close comes after it.
//
// The consumer's Close alone would leave, too, but for one case: when it comes
// while the client still stops the fetching of partitions that were unassigned a
// moment ago, it ends the membership without a word (librdkafka 2.11), and nobody
// gets the partitions before the session is over.
func (q *Queues) Leave(patience time.Duration, poll func()) error {
	if err := q.consumer.Unsubscribe(); err != nil {
		return fmt.Errorf("unsubscribing: %w", err)
	}
	for until := time.Now().Add(patience); q.member() && time.Now().Before(until); {
		poll()
	}
	return nil
}

// member tells whether the client is a member of its group and has not said that
// it goes.
func (q *Queues) member() bool {
	q.using.RLock()
	defer q.using.RUnlock()
	return !q.closed && C.member(q.client) != 0
}

// Close closes whatever queue is still open, ends the goroutine and waits for
// it. It must come before the consumer's Close. A second Close does nothing.
func (q *Queues) Close() {
	q.using.Lock()
	defer q.using.Unlock()
	if q.closed {
		return
	}
	q.closed = true
	for _, queue := range q.open() {
		queue.Close()
	}
	// No queue is left that could write. The end of the file ends listen.
	_ = q.write.Close()
	<-q.done
	_ = q.read.Close()
}

// listen passes the wake-ups on from the pipe to the queues' readers.
//
// The library writes without waiting and drops the wake-up if the pipe is full,
// and it does not write again for a queue that nobody has read since. So a read
// that fills the buffer may stand for wake-ups that were dropped: a pipe cannot
// be full with less in it. Then all are woken, which is always safe, and late
// enough: what was dropped was dropped before this read made room, and the
// records it meant were in their queue before that.
func (q *Queues) listen() {
	defer close(q.done)
	buffer := make([]byte, pipeRead)
	for {
		n, err := q.read.Read(buffer)
		if err != nil {
			return // the end: Close has closed the other end
		}
		q.mu.Lock()
		if n == len(buffer) {
			for _, queue := range q.slots {
				if queue != nil {
					queue.signal()
				}
			}
		} else {
			// A write this short is never split, so there are whole slots only.
			for at := 0; at+slotSize <= n; at += slotSize {
				slot := binary.NativeEndian.Uint32(buffer[at:])
				// A wake-up may come late, for a queue that is gone; if another has
				// its slot by now, it is woken for nothing.
				if int(slot) < len(q.slots) && q.slots[slot] != nil {
					q.slots[slot].signal()
				}
			}
		}
		q.mu.Unlock()
	}
}

// open is the queues not closed yet.
func (q *Queues) open() []*Queue {
	q.mu.Lock()
	defer q.mu.Unlock()
	var open []*Queue
	for _, queue := range q.slots {
		if queue != nil {
			open = append(open, queue)
		}
	}
	return open
}

// forget frees the slot of a queue that was closed.
func (q *Queues) forget(queue *Queue) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.slots[queue.slot] = nil
}
