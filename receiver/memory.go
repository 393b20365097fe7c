package receiver

import (
	"context"
	"sync"
)

// defaultMemory is how many records a Memory remembers by default.
const defaultMemory = 1 << 18

// Memory is a Dedupe that remembers in this process the records processed last. It
// filters what a lost answer, a crashed gateway or a rebalance sends again; after a
// restart of this process it knows nothing. Safe for concurrent use.
//
// A record is the same if webhook, topic, partition, offset and timestamp are. So:
//   - The generation plays no part. Whoever sends a record, it is processed once: what
//     a former owner still sends, and what the next one sends again.
//   - In a topic that was deleted and made anew, offsets come again with other records.
//     Their timestamps differ, and they are not taken for the old ones.
//   - Two webhooks on one topic are two subscriptions: each gets its records.
//   - Records may come in any order.
//
// Who moves a webhook's offsets back to have records processed again calls Forget.
//
// Records that are under way are not held: of two requests with one record at the
// same time, as after a timeout of the first, both have it. End work with the
// context of its request.
type Memory struct {
	half int // of the limit

	// Marks are made in newer; when it is half of the limit, older is dropped and
	// newer becomes older. So the oldest go first, and nothing is ever searched for.
	mu           sync.Mutex
	newer, older marks
	made         int // in newer
}

// marks are the timestamps, in milliseconds, of records by their offsets.
type marks map[source]map[int64]int64

type source struct {
	webhook, topic string
	partition      int32
}

func sourceOf(d *Delivery) source { return source{d.WebhookID, d.Topic, d.Partition} }

// NewMemory makes a Memory of at most limit records, of all partitions together;
// with 0 or less, 262144. Between half of the limit and all of it is remembered, at
// about 50 bytes a record.
func NewMemory(limit int) *Memory {
	if limit <= 0 {
		limit = defaultMemory
	}
	return &Memory{half: max(1, limit/2), newer: marks{}, older: marks{}}
}

// Seen tells which records of d are remembered. It returns no error.
func (m *Memory) Seen(_ context.Context, d *Delivery) ([]bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	newer, older := m.newer[sourceOf(d)], m.older[sourceOf(d)]
	seen := make([]bool, len(d.Records))
	for i := range d.Records {
		r := &d.Records[i]
		at, ok := newer[r.Offset]
		if !ok {
			at, ok = older[r.Offset]
		}
		seen[i] = ok && at == r.Timestamp.UnixMilli()
	}
	return seen, nil
}

// Processed remembers records of d.
func (m *Memory) Processed(d *Delivery, records []Record) {
	m.mu.Lock()
	defer m.mu.Unlock()
	from := sourceOf(d)
	for i := range records {
		of := m.newer[from]
		if of == nil {
			of = map[int64]int64{}
			m.newer[from] = of
		}
		if _, again := of[records[i].Offset]; !again {
			m.made++
		}
		of[records[i].Offset] = records[i].Timestamp.UnixMilli()
		if m.made >= m.half {
			m.older, m.newer, m.made = m.newer, marks{}, 0
		}
	}
}

// Forget forgets all records, so that what comes again is processed again.
func (m *Memory) Forget() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.newer, m.older, m.made = marks{}, marks{}, 0
}
