package gatewaytest

import (
	"maps"
	"slices"
	"sync"

	"github.com/twmb/franz-go/pkg/kgo"
)

// Produced is the ledger of a producer: what a reader of committed records can
// see in Kafka. The zero value is ready; methods may be called concurrently.
type Produced struct {
	mu    sync.Mutex
	books map[Partition]map[int64]Digest
	count int
}

// Add notes a record that the broker has confirmed, and whose transaction, if
// it has one, was committed.
func (p *Produced) Add(r *kgo.Record) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.books == nil {
		p.books = map[Partition]map[int64]Digest{}
	}
	partition := Partition{r.Topic, r.Partition}
	book := p.books[partition]
	if book == nil {
		book = map[int64]Digest{}
		p.books[partition] = book
	}
	book[r.Offset] = DigestOf(r)
	p.count++
}

// Drop removes the records from an offset up to another, exclusive: nobody has to
// deliver them any more. It returns how many they were.
func (p *Produced) Drop(partition Partition, from, to int64) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	before := len(p.books[partition])
	maps.DeleteFunc(p.books[partition], func(offset int64, _ Digest) bool { return from <= offset && offset < to })
	dropped := before - len(p.books[partition])
	p.count -= dropped
	return dropped
}

// Len is the number of records in the ledger.
func (p *Produced) Len() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.count
}

// Partitions that have records, sorted.
func (p *Produced) Partitions() []Partition {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.SortedFunc(maps.Keys(p.books), comparePartitions)
}

// book is the records of one partition and their offsets in ascending order.
func (p *Produced) book(partition Partition) (map[int64]Digest, []int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	book := maps.Clone(p.books[partition])
	return book, slices.Sorted(maps.Keys(book))
}
