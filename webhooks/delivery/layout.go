package delivery

import (
	"bytes"
	"fmt"
	"slices"

	"github.com/kpush/kpush/internal/records"
	"github.com/kpush/kpush/webhooks"
)

// layout writes deliveries in one format.type. A client has one, which is called
// once per delivery and once per attempt, never per record. Safe for concurrent use
// with messages of their own.
type layout interface {
	// encode lays records [from,to) of b out in m: the body as far as no attempt
	// changes it, and header fields that only this format has.
	encode(m *Message, b *records.Batch, from, to int)

	// body returns the whole body of attempt a, valid until the next call.
	body(m *Message, a Attempt) []byte
}

// format is how a client writes deliveries.
type format struct {
	layout
	contentType string // empty if each delivery has one of its own
	fixed       bool   // all attempts of a delivery have the same body
}

// envelopeType is the content type of the envelope and of lifecycle calls.
const envelopeType = "application/json; charset=utf-8"

func newFormat(w webhooks.Webhook, ackURL string) (format, error) {
	f := w.Format
	switch f.Type {
	case "", webhooks.FormatEnvelope: // empty in tests only
		return format{layout: newEnvelopeParts(w, ackURL), contentType: envelopeType}, nil
	case webhooks.FormatNDJSON:
		return format{layout: lines{}, contentType: "application/x-ndjson", fixed: true}, nil
	case webhooks.FormatCloudEvents:
		return format{layout: newCloudEvents(f), contentType: "application/cloudevents-batch+json", fixed: true}, nil
	case webhooks.FormatRaw:
		if w.Batch.MaxRecords != 1 {
			return format{}, fmt.Errorf("webhook %q: raw deliveries are of one record, not of %d", w.ID, w.Batch.MaxRecords)
		}
		return format{layout: newRaw(f), fixed: true}, nil
	default:
		return format{}, fmt.Errorf("webhook %q: there is no format %q", w.ID, f.Type)
	}
}

// recordOverhead is about what a format adds to a record's own bytes.
const recordOverhead = 160

// reserve empties the body, leaves headroom at its beginning and makes room for
// the records.
func (m *Message) reserve(headroom int, b *records.Batch, from, to int) {
	size := (to - from) * recordOverhead
	for i := from; i < to; i++ {
		n := b.Size(i)
		size += n + n/3
	}
	m.start = headroom
	m.buf = slices.Grow(m.buf[:0], headroom+size)[:headroom]
}

// lines is format ndjson: the envelope's record objects, one a line, and nothing else.
type lines struct{}

func (lines) encode(m *Message, b *records.Batch, from, to int) {
	m.reserve(0, b, from, to)
	for i := from; i < to; i++ {
		m.buf = append(m.appendRecord(m.buf, b, i, true), '\n')
	}
}

func (lines) body(m *Message, _ Attempt) []byte { return m.buf }

// breaksLine tells JSON that cannot stand in a line as it is. Line breaks may only
// stand between its tokens, but to take them out would be to change the record.
func breaksLine(value []byte) bool {
	return bytes.IndexByte(value, '\n') >= 0 || bytes.IndexByte(value, '\r') >= 0
}
