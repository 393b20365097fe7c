package delivery

import (
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/kpush/kpush/internal/records"
	"github.com/kpush/kpush/webhooks"
)

// cloudEvents is format cloudevents-batch: an array of events in the JSON format of
// CloudEvents 1.0. A record that is an event itself, by the Kafka protocol binding,
// passes through (cloudevent.go); of any other one is made. Each has an extension
// kafkaoffset, by which acks can speak of it.
//
// Libraries read a batch as a whole: one event that is none would cost them all the
// others. So what goes out is always valid, and JSON stands in "data" only under the
// types that all libraries take for JSON.
type cloudEvents struct {
	source, eventType string
	attributes        map[string]string // by a record header's name, the extension's
}

func newCloudEvents(f webhooks.Format) *cloudEvents {
	c := &cloudEvents{source: f.Source, eventType: quoted(f.EventType), attributes: map[string]string{}}
	for _, name := range f.Headers {
		c.attributes[name] = webhooks.HeaderExtension(name)
	}
	return c
}

func (c *cloudEvents) encode(m *Message, b *records.Batch, from, to int) {
	m.reserve(0, b, from, to)
	// Source and id name the record: the topic is in the one, the rest in the other.
	m.fixed = append(m.fixed[:0], `{"specversion":"1.0","type":`...)
	m.fixed = append(append(m.fixed, c.eventType...), `,"source":`...)
	m.fixed = append(appendQuoted(m.fixed, c.source+"#"+m.topic), `,"id":"`...)
	m.fixed = append(strconv.AppendInt(m.fixed, int64(m.partition), 10), '-')
	dst := append(m.buf, '[')
	for i := from; i < to; i++ {
		if i > from {
			dst = append(dst, ',')
		}
		if event, ok := m.appendEvent(dst, b, i); ok {
			dst = event
		} else {
			dst = c.appendPlain(dst, m, b, i)
		}
	}
	m.buf = append(dst, ']')
}

func (c *cloudEvents) body(m *Message, _ Attempt) []byte { return m.buf }

// lastTime is the first millisecond that RFC 3339 cannot write.
var lastTime = time.Date(10_000, 1, 1, 0, 0, 0, 0, time.UTC).UnixMilli()

// appendPlain makes an event of record i.
func (c *cloudEvents) appendPlain(dst []byte, m *Message, b *records.Batch, i int) []byte {
	r := &b.Records[i]
	dst = strconv.AppendInt(append(dst, m.fixed...), r.Offset, 10)
	dst = appendOffset(append(dst, '"'), r.Offset)
	dst = append(dst, `,"sequence":"`...)
	dst = append(appendPadded(dst, r.Offset), '"')
	if r.Timestamp >= 0 && r.Timestamp < lastTime {
		dst = append(dst, `,"time":"`...)
		dst = append(time.UnixMilli(r.Timestamp).UTC().AppendFormat(dst, envelopeTime), '"')
	}
	if key := b.Key(i); key != nil {
		dst = m.client.key.appendPartitionKey(dst, key)
	}
	if len(c.attributes) > 0 {
		dst = c.appendHeaders(dst, b, i)
	}
	return append(m.appendData(dst, contentTypeOf(b, i), b.Value(i)), '}')
}

func appendOffset(dst []byte, offset int64) []byte {
	return append(strconv.AppendInt(append(dst, `,"kafkaoffset":"`...), offset, 10), '"')
}

// appendPadded appends an offset so that the order of texts is that of offsets, in 20
// digits as Kafka's own files have them.
func appendPadded(dst []byte, offset int64) []byte {
	const zeros = "00000000000000000000"
	n := len(dst)
	dst = strconv.AppendInt(append(dst, zeros...), offset, 10)
	digits := len(dst) - n - len(zeros)
	return slices.Delete(dst, n, n+digits)
}

// appendPartitionKey appends a key, which is not null: as the attribute of that name
// if it can be one, which has to be text and not empty.
func (f keyFormat) appendPartitionKey(dst, key []byte) []byte {
	if f == keyAuto && len(key) > 0 && legalText(key) {
		dst, _ = appendString(append(dst, `,"partitionkey":`...), key)
		return dst
	}
	return appendBase64Rest(append(dst, `,"partitionkeybase64":"`...), key)
}

// appendHeaders appends the headers of record i that are on the list, the last of a
// name, a null one not. What is no text is base64, as CloudEvents writes bytes.
func (c *cloudEvents) appendHeaders(dst []byte, b *records.Batch, i int) []byte {
	for j := range b.Headers(i) {
		name, value := b.Header(i, j)
		attribute, ok := c.attributes[string(name)]
		if !ok || value == nil || repeated(b, i, j) {
			continue
		}
		dst = append(append(append(dst, `,"`...), attribute...), `":`...)
		if legalText(value) {
			dst, _ = appendString(dst, value)
		} else {
			dst = appendBase64Rest(append(dst, '"'), value)
		}
	}
	return dst
}

// repeated reports whether a later header of record i has the name of header j.
func repeated(b *records.Batch, i, j int) bool {
	name, _ := b.Header(i, j)
	for j++; j < b.Headers(i); j++ {
		if later, _ := b.Header(i, j); string(later) == string(name) {
			return true
		}
	}
	return false
}

// appendData appends a value and its type, and the commas before them; the type may
// be empty. A tombstone, and nothing else, is an event without data.
func (m *Message) appendData(dst []byte, contentType string, value []byte) []byte {
	format := m.client.value
	kind := mediaType(contentType)
	switch {
	case value == nil:
		return appendContentType(dst, contentType)
	case len(value) == 0 || format == valueBase64:
	case isJSONType(kind), kind == "" && format == valueJSON:
		if m.check.embeddable(value) {
			if contentType == "" {
				contentType = "application/json"
			}
			return append(append(appendContentType(dst, contentType), `,"data":`...), value...)
		}
	case format == valueString && !strings.HasSuffix(kind, "+json"):
		text := contentType
		if text == "" {
			text = "text/plain; charset=utf-8"
		}
		n := len(dst)
		if dst, ok := appendString(append(appendContentType(dst, text), `,"data":`...), value); ok {
			return dst
		}
		dst = dst[:n]
	}
	if contentType == "" {
		contentType = octetStream
	}
	return appendBase64Rest(append(appendContentType(dst, contentType), `,"data_base64":"`...), value)
}

func appendContentType(dst []byte, contentType string) []byte {
	if contentType == "" {
		return dst
	}
	return appendQuoted(append(dst, `,"datacontenttype":`...), contentType)
}

// isJSONType tells the types under which every library takes data for JSON. Those that end
// in +json are JSON too, and not all know it.
func isJSONType(kind string) bool { return kind == "application/json" || kind == "text/json" }

// legalText reports whether b is what CloudEvents calls a String: UTF-8 without control
// characters and what Unicode has set aside as no characters.
func legalText(b []byte) bool {
	for i := 0; i < len(b); {
		c := b[i]
		if c < utf8.RuneSelf {
			if c < ' ' || c == 0x7f {
				return false
			}
			i++
			continue
		}
		r, n := utf8.DecodeRune(b[i:])
		if r == utf8.RuneError && n == 1 || r < 0xa0 || r >= 0xfdd0 && r <= 0xfdef || r&0xfffe == 0xfffe {
			return false
		}
		i += n
	}
	return true
}
