package delivery

import (
	"strconv"

	"github.com/kpush/kpush/internal/records"
	"github.com/kpush/kpush/webhooks"
)

// keyFormat says how keys are written.
type keyFormat uint8

const (
	keyAuto   keyFormat = iota // a JSON string where the bytes are UTF-8, else base64
	keyBase64                  // always base64
)

func keyFormatOf(word string) keyFormat {
	if word == "base64" {
		return keyBase64
	}
	return keyAuto
}

// valueFormat says how values are written.
type valueFormat uint8

const (
	valueJSON   valueFormat = iota // JSON as it is, anything else as base64
	valueString                    // a JSON string where the bytes are UTF-8, else base64
	valueBase64                    // always base64
)

func valueFormatOf(word string) valueFormat {
	switch word {
	case "string":
		return valueString
	case "base64":
		return valueBase64
	default: // auto, json
		return valueJSON
	}
}

// envelopeParts is format envelope: the stretches of its head that are the same in
// all deliveries of a webhook, named after what stands before them.
type envelopeParts struct {
	afterID      string
	afterAttempt string
	afterToken   string
}

func newEnvelopeParts(w webhooks.Webhook, ackURL string) *envelopeParts {
	return &envelopeParts{
		afterID:      `,"webhook_id":` + quoted(w.ID) + `,"attempt":`,
		afterAttempt: `,"group_id":` + quoted(w.GroupID) + `,"generation":`,
		afterToken:   `,"url":` + quoted(ackURL) + `,"timeout_ms":` + strconv.Itoa(w.Ack.TimeoutMs) + `},`,
	}
}

func (e *envelopeParts) encode(m *Message, b *records.Batch, from, to int) {
	m.fixed = m.appendFixed(m.fixed[:0])
	m.reserve(int(m.client.headroom.Load()), b, from, to)
	m.buf = m.appendRecords(m.buf, b, from, to)
}

// body writes the head of attempt a before the records.
func (e *envelopeParts) body(m *Message, a Attempt) []byte {
	m.head = m.appendHead(m.head[:0], e, a)
	at := m.start - len(m.head)
	if at < 0 {
		m.client.raiseHeadroom(len(m.head))
		m.moveRecords(len(m.head))
		at = 0
	}
	copy(m.buf[at:], m.head)
	return m.buf[at:]
}

// envelopeTime is RFC 3339 in UTC with milliseconds.
const envelopeTime = "2006-01-02T15:04:05.000Z"

// appendFixed appends the part of the head from the topic to the token.
func (m *Message) appendFixed(dst []byte) []byte {
	dst = append(dst, `,"topic":`...)
	dst = appendQuoted(dst, m.topic)
	dst = append(dst, `,"partition":`...)
	dst = strconv.AppendInt(dst, int64(m.partition), 10)
	dst = append(dst, `,"first_offset":`...)
	dst = strconv.AppendInt(dst, m.first, 10)
	dst = append(dst, `,"last_offset":`...)
	dst = strconv.AppendInt(dst, m.last, 10)
	dst = append(dst, `,"record_count":`...)
	dst = strconv.AppendInt(dst, int64(m.count), 10)
	return append(dst, `,"ack":{"token":`...)
}

// appendHead appends everything before the records, for one attempt.
func (m *Message) appendHead(dst []byte, parts *envelopeParts, a Attempt) []byte {
	if a.Sample {
		dst = append(dst, `{"type":"kafka.records.test","timestamp":"`...)
	} else {
		dst = append(dst, `{"type":"kafka.records","timestamp":"`...)
	}
	dst = a.Now.UTC().AppendFormat(dst, envelopeTime)
	dst = append(dst, `","delivery_id":`...)
	dst = appendQuoted(dst, m.id)
	dst = append(dst, parts.afterID...)
	dst = strconv.AppendInt(dst, int64(a.Number), 10)
	dst = append(dst, parts.afterAttempt...)
	dst = strconv.AppendInt(dst, int64(a.Generation), 10)
	dst = append(dst, m.fixed...)
	dst = appendQuoted(dst, a.Token)
	return append(dst, parts.afterToken...)
}

// appendRecords appends the records' array and the end of the envelope.
func (m *Message) appendRecords(dst []byte, b *records.Batch, from, to int) []byte {
	dst = append(dst, `"records":[`...)
	for i := from; i < to; i++ {
		if i > from {
			dst = append(dst, ',')
		}
		dst = m.appendRecord(dst, b, i, false)
	}
	return append(dst, `]}`...)
}

// appendRecord appends one record as a JSON object, which is to stay in one line
// where inLine says so.
func (m *Message) appendRecord(dst []byte, b *records.Batch, i int, inLine bool) []byte {
	r := &b.Records[i]
	dst = append(dst, `{"offset":`...)
	dst = strconv.AppendInt(dst, r.Offset, 10)
	dst = append(dst, `,"timestamp":`...)
	dst = strconv.AppendInt(dst, r.Timestamp, 10)
	dst = append(dst, timestampType(r.TimestampType)...)
	dst = m.client.key.append(dst, b.Key(i))
	dst = m.appendValue(dst, b.Value(i), inLine)
	dst = append(dst, `,"headers":[`...)
	for j := range b.Headers(i) {
		if j > 0 {
			dst = append(dst, ',')
		}
		dst = appendHeader(dst, b, i, j)
	}
	return append(dst, `]}`...)
}

func timestampType(t records.TimestampType) string {
	switch t {
	case records.TimestampCreate:
		return `,"timestamp_type":"create"`
	case records.TimestampLogAppend:
		return `,"timestamp_type":"log_append"`
	default:
		return `,"timestamp_type":"none"`
	}
}

// append appends a record's key and the comma before it.
func (f keyFormat) append(dst, key []byte) []byte {
	if key == nil {
		return append(dst, `,"key":null`...)
	}
	if f == keyAuto {
		if dst, ok := appendString(append(dst, `,"key":`...), key); ok {
			return dst
		}
	}
	return appendBase64Rest(append(dst, `,"key_base64":"`...), key)
}

// appendValue appends a record's value and the comma before it. A tombstone, and
// nothing else, is "value":null: the JSON text null goes as base64.
func (m *Message) appendValue(dst, value []byte, inLine bool) []byte {
	if value == nil {
		return append(dst, `,"value":null`...)
	}
	switch m.client.value {
	case valueJSON:
		if m.check.embeddable(value) && !(inLine && breaksLine(value)) {
			return append(append(dst, `,"value":`...), value...)
		}
	case valueString:
		if len(value) == 0 {
			break // an empty value is "value_base64":"" in every format
		}
		if dst, ok := appendString(append(dst, `,"value":`...), value); ok {
			return dst
		}
	}
	return appendBase64Rest(append(dst, `,"value_base64":"`...), value)
}

func appendHeader(dst []byte, b *records.Batch, i, j int) []byte {
	name, value := b.Header(i, j)
	if named, ok := appendString(append(dst, `{"name":`...), name); ok {
		dst = named
	} else {
		dst = appendBase64Rest(append(dst, `{"name_base64":"`...), name)
	}
	if value == nil {
		return append(dst, `,"value":null}`...)
	}
	if valued, ok := appendString(append(dst, `,"value":`...), value); ok {
		dst = valued
	} else {
		dst = appendBase64Rest(append(dst, `,"value_base64":"`...), value)
	}
	return append(dst, '}')
}

// appendBase64Rest appends the base64 of p after a quote, and the closing quote.
func appendBase64Rest(dst, p []byte) []byte { return append(appendBase64(dst, p), '"') }
