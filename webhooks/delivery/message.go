package delivery

import (
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

	buf    []byte // headroom, then the records: what no attempt changes
	start  int    // where in buf the records begin
	fixed  []byte // the part of the envelope's head that no attempt changes
	head   []byte // the envelope's head of the attempt under way, before it is put in place
	fields []byte // header fields that only this format has, as they are sent
	packed []byte // the body compressed, if it is
	kept   bool   // packed is good for the next attempt too

	check validator
	event []member // scratch of format cloudevents-batch
}

// maxPooled bounds the buffer an idle Message may keep; a larger one goes back
// to the collector.
const maxPooled = 2 << 20

var messages = sync.Pool{New: func() any { return new(Message) }}

// Encode lays out records [from,to) of b as the request body of one delivery. The
// records' bytes are final; in the envelope each attempt writes its head anew. b
// may be freed or reused afterwards, id is the delivery id ("dl_...").
func (c *Client) Encode(id string, topic string, partition int32, b *records.Batch, from, to int) *Message {
	m := messages.Get().(*Message)
	m.client, m.id, m.topic, m.partition = c, id, topic, partition
	m.first, m.last, m.count = b.Records[from].Offset, b.Records[to-1].Offset, to-from
	m.fields, m.kept = m.fields[:0], false
	c.form.encode(m, b, from, to)
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
	for _, p := range []*[]byte{&m.buf, &m.packed, &m.fields} {
		if cap(*p) > maxPooled {
			*p = nil
		}
	}
	clear(m.event[:cap(m.event)])
	m.client = nil
	messages.Put(m)
}

// body returns what attempt a sends and signs. It is valid until the next call.
func (m *Message) body(a Attempt) []byte {
	c := m.client
	if c.pack == nil {
		return c.form.body(m, a)
	}
	if !m.kept {
		m.packed = c.pack(m.packed[:0], c.form.body(m, a))
		m.kept = c.form.fixed
	}
	return m.packed
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
