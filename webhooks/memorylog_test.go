package webhooks

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// fate is what becomes of one Append.
type fate int

const (
	written    fate = iota
	notWritten      // fails and has done nothing
	replyLost       // is written, and fails all the same
)

// memory is a log that outlives the processes that use it; the latest to lead it
// fences the one before, which finds that out when it writes.
type memory struct {
	mu      sync.Mutex
	records []record
	grown   chan struct{} // closed and made anew when records has grown
	epoch   int           // of the process that may write
	next    fate          // of the next Append; written again after it
	held    bool          // readers see nothing new

	// delay, if there is one, is slept before and after each write, and before
	// each record that a reader applies.
	delay func() time.Duration
}

type record struct {
	key    string
	value  []byte
	offset int64
	at     time.Time
}

func newMemory() *memory { return &memory{grown: make(chan struct{})} }

// open is what a process does at its start.
func (m *memory) open() *memoryLog {
	return &memoryLog{memory: m, took: make(chan struct{}, 1)}
}

func (m *memory) decree(f fate) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.next = f
}

// hold keeps new records from the readers until it is called with false.
func (m *memory) hold(held bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.held = held
	m.wake()
}

func (m *memory) wake() {
	close(m.grown)
	m.grown = make(chan struct{})
}

// put writes a record past all rules and returns its offset.
func (m *memory) put(key string, value []byte) int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.add(key, value)
}

func (m *memory) add(key string, value []byte) int64 {
	offset := m.end() + 2 // a transaction's marker takes an offset, too
	m.records = append(m.records, record{key, value, offset, time.Now()})
	m.wake()
	return offset
}

// end is the offset of the last record, -2 when there is none.
func (m *memory) end() int64 {
	if len(m.records) == 0 {
		return -2
	}
	return m.records[len(m.records)-1].offset
}

// compact drops every record but the last of its key; with tombstones those too.
// As in Kafka the last record of all stays.
func (m *memory) compact(tombstones bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	last := map[string]int64{}
	for _, r := range m.records {
		last[r.key] = r.offset
	}
	end := m.end()
	var kept []record
	for _, r := range m.records {
		if r.offset == end || r.offset == last[r.key] && (r.value != nil || !tombstones) {
			kept = append(kept, r)
		}
	}
	m.records = kept
}

func (m *memory) pause() {
	if m.delay != nil {
		time.Sleep(m.delay())
	}
}

type memoryLog struct {
	*memory
	took chan struct{} // filled when Lead has taken over

	// Guarded by memory.mu.
	mine int           // epoch; 0 while Lead does not run
	lost chan struct{} // closed when a write has found out that another leads
}

func (l *memoryLog) Run(ctx context.Context, apply func(string, []byte, int64), caughtUp func()) error {
	next := int64(0)
	for started := false; ; started = true {
		l.mu.Lock()
		var due []record
		for _, r := range l.records {
			if r.offset >= next && !l.held {
				due = append(due, r)
			}
		}
		grown := l.grown
		l.mu.Unlock()
		for _, r := range due {
			l.pause()
			apply(r.key, r.value, r.offset)
			next = r.offset + 1
		}
		if !started {
			caughtUp()
		}
		select {
		case <-grown:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (l *memoryLog) Lead(ctx context.Context) error {
	l.mu.Lock()
	l.epoch++
	lost := make(chan struct{})
	l.mine, l.lost = l.epoch, lost
	l.mu.Unlock()
	select {
	case l.took <- struct{}{}:
	default:
	}
	defer func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.mine = 0
	}()
	select {
	case <-lost:
		return ErrFenced
	case <-ctx.Done():
		return nil
	}
}

func (l *memoryLog) Append(_ context.Context, key string, value []byte) (int64, error) {
	l.pause()
	defer l.pause()
	l.mu.Lock()
	defer l.mu.Unlock()
	switch l.mine {
	case l.epoch:
	case 0:
		return 0, ErrNotLeader
	default:
		l.mine = 0
		close(l.lost)
		return 0, fmt.Errorf("%w: %w", ErrNotLeader, ErrFenced)
	}
	f := l.next
	l.next = written
	if f == notWritten {
		return 0, fmt.Errorf("refused: %w", ErrUnavailable)
	}
	offset := l.add(key, value)
	if f == replyLost {
		return 0, fmt.Errorf("no reply: %w", ErrUnavailable)
	}
	return offset, nil
}
