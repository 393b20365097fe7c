// Package partitionqueue reads the queues of a Kafka consumer's partitions in
// batches. It is the one place that goes around confluent-kafka-go, into the C
// library below it: there a batch costs two crossings from Go to C instead of
// three for each record, no thread is held while a queue is empty, and nobody
// but a partition's own reader ever touches its records.
//
// The order of things, for one consumer: Open after the consumer was made;
// Split in the rebalance callback for each partition before IncrementalAssign;
// Read by one goroutine until it finds nothing, then sleep on Wake; at revoke
// stop that goroutine, Close the Queue, then IncrementalUnassign; at the end
// Queues.Leave, Queues.Close and last of all the consumer's. A partition that stays
// and shall go on from another place is moved likewise: stop the goroutine, Close
// the Queue, the consumer's SeekPartitions, Split.
//
// The consumer needs enable.auto.offset.store=false, or what Close drops would
// count as consumed, and enable.partition.eof=false, which makes the position
// one too high.
package partitionqueue

/*
#cgo CFLAGS: -O2 -std=gnu11
#cgo darwin LDFLAGS: -Wl,-undefined,dynamic_lookup
#include "librdkafka.h"
*/
import "C"

import (
	"errors"
	"fmt"
	"reflect"
	"unsafe"

	"github.com/confluentinc/confluent-kafka-go/v2/kafka"
)

// The consumer's way to the C library's client: two private fields, and the
// name cgo gives the type of the second.
const (
	handleField = "handle"
	clientField = "rk"
	clientType  = "_Ctype_struct_rd_kafka_s"
)

// Check tells whether this program can read partition queues: confluent-kafka-go
// keeps the C client where we look for it, and the C library has every function
// we call. It touches no consumer; call it at start.
func Check() error {
	if _, err := clientPath(); err != nil {
		return err
	}
	if name := C.missing_symbol(); name != nil {
		return fmt.Errorf("the program was linked without librdkafka's %s, which reading partition queues needs", C.GoString(name))
	}
	return nil
}

// clientPath is the way from a kafka.Consumer to its *C.rd_kafka_t.
func clientPath() ([]int, error) {
	var path []int
	t := reflect.TypeFor[kafka.Consumer]()
	for _, name := range []string{handleField, clientField} {
		var field reflect.StructField
		ok := t.Kind() == reflect.Struct
		if ok {
			field, ok = t.FieldByName(name)
		}
		if !ok {
			return nil, fmt.Errorf("this version of confluent-kafka-go has no field kafka.Consumer.%s.%s: reading partition queues is not made for it", handleField, clientField)
		}
		path, t = append(path, field.Index...), field.Type
	}
	if t.Kind() != reflect.Pointer || t.Elem().Name() != clientType {
		return nil, fmt.Errorf("in this version of confluent-kafka-go kafka.Consumer.%s.%s is a %v, not librdkafka's client: reading partition queues is not made for it", handleField, clientField, t)
	}
	return path, nil
}

// clientOf is the C client of a consumer, which lives until the consumer is closed.
func clientOf(c *kafka.Consumer) (*C.rd_kafka_t, error) {
	if err := Check(); err != nil {
		return nil, err
	}
	path, err := clientPath()
	if err != nil {
		return nil, err
	}
	if c == nil || c.IsClosed() {
		return nil, errors.New("the consumer is closed")
	}
	return (*C.rd_kafka_t)(reflect.ValueOf(c).Elem().FieldByIndex(path).UnsafePointer()), nil
}

// bytesAt is a view of n bytes of C memory, valid until they are released; nil for address 0.
func bytesAt(address *C.uintptr_t, n C.size_t) []byte {
	// The number is read as the pointer it is; C memory does not move.
	p := *(*unsafe.Pointer)(unsafe.Pointer(address))
	if p == nil {
		return nil
	}
	return unsafe.Slice((*byte)(p), int(n))
}
