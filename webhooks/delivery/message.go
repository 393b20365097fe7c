package delivery

import (
	"slices"
	"sync"

	"github.com/kpush/kpush/internal/records"
)

// Message is one delivery encoded once and sent as often as need be. A Message
// is used by one goroutine at a time; Free gives its buffer back.
type Message struct {
	client    *Client
	id        string
	topic     string
	partition int32
	first     int64
	last      int64
	count     int

	buf   []byte // headroom, then the records: what no attempt changes
	start int    // where in buf the records begin
	fixed []byte // the part of the head that no attempt changes
	head  []byte // the head of the attempt under way, before it is put in place

	check validator
}

// maxPooled bounds the buffer an idle Message may keep; a larger one goes back
// to the collector.
const maxPooled = 2 << 20

var messages = sync.Pool{New: func() any { return new(Message) }}

// recordOverhead is about what the envelope adds to a record's own bytes.
const recordOverhead = 160

// Encode lays out records [from,to) of b as the request body of one delivery. The
// records' bytes are final; each attempt writes only the head anew. b may be
// freed or reused afterwards, id is the delivery id ("dl_...").
func (c *Client) Encode(id string, topic string, partition int32, b *records.Batch, from, to int) *Message {
	m := messages.Get().(*Message)
	m.client, m.id, m.topic, m.partition = c, id, topic, partition
	m.first, m.last, m.count = b.Records[from].Offset, b.Records[to-1].Offset, to-from
	m.fixed = m.appendFixed(m.fixed[:0])

	size := (to - from) * recordOverhead
	for i := from; i < to; i++ {
		n := b.Size(i)
		size += n + n/3
	}
	m.start = int(c.headroom.Load())
	m.buf = slices.Grow(m.buf[:0], m.start+size)[:m.start]
	m.buf = m.appendRecords(m.buf, b, from, to)
	return m
}

// Undecodable lists the records of b, by index, whose values are not JSON, where the
// webhook wants to know: with format.value json and an on_undecodable of its own. A
// tombstone has no value, and null is JSON, though it goes as base64.
func (c *Client) Undecodable(b *records.Batch) []int {
	if !c.strict {
		return nil
	}
	var found []int
	var check validator
	for i := range b.Records {
		if v := b.Value(i); v != nil && !check.valid(v, 0) {
			found = append(found, i)
		}
	}
	return found
}

// Free returns the message's memory. The message must not be used afterwards.
func (m *Message) Free() {
	if cap(m.buf) > maxPooled {
		m.buf = nil
	}
	m.client = nil
	messages.Put(m)
}

// body writes the head of attempt a before the records and returns the whole
// request body. It is valid until the next call.
func (m *Message) body(a Attempt) []byte {
	m.head = m.appendHead(m.head[:0], a)
	at := m.start - len(m.head)
	if at < 0 {
		m.client.raiseHeadroom(len(m.head))
		m.moveRecords(len(m.head))
		at = 0
	}
	copy(m.buf[at:], m.head)
	return m.buf[at:]
}

// moveRecords copies the records into a fresh buffer that begins with start bytes of headroom.
func (m *Message) moveRecords(start int) {
	buf := make([]byte, start+len(m.buf)-m.start)
	copy(buf[start:], m.buf[m.start:])
	m.buf, m.start = buf, start
}

func (c *Client) raiseHeadroom(n int) {
	for {
		was := c.headroom.Load()
		if int64(n) <= was || c.headroom.CompareAndSwap(was, int64(n)) {
			return
		}
	}
}
