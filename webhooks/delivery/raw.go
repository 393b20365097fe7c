package delivery

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/kpush/kpush/internal/records"
	"github.com/kpush/kpush/webhooks"
)

// raw is format raw: the body is the value of one record, all else is in fields of
// the head.
//
// Headers of a record get there by the list of format.headers alone, under names that
// begin with promotedPrefix. So a record cannot set or double a header that means
// something, whatever its own headers are called.
type raw struct {
	promoted map[string]string // by a record header's name, the field's
}

const promotedPrefix = "kpush-header-"

func newRaw(f webhooks.Format) *raw {
	r := &raw{promoted: map[string]string{}}
	for _, name := range f.Headers {
		r.promoted[name] = promotedPrefix + strings.ToLower(name)
	}
	return r
}

func (r *raw) encode(m *Message, b *records.Batch, from, to int) {
	if to-from != 1 {
		panic(fmt.Sprintf("delivery: %d records in one raw delivery", to-from)) // newFormat has seen to that
	}
	value := b.Value(from)
	m.start, m.buf = 0, append(m.buf[:0], value...)

	contentType := contentTypeOf(b, from)
	if contentType == "" {
		contentType = octetStream
	}
	f := m.field("content-type", contentType)
	f = strconv.AppendInt(appendField(f, "kpush-offset"), b.Records[from].Offset, 10)
	f = strconv.AppendInt(appendField(append(f, "\r\n"...), "kpush-timestamp"), b.Records[from].Timestamp, 10)
	m.fields = append(f, "\r\n"...)
	m.fields = m.field("kpush-timestamp-type", timestampWord(b.Records[from].TimestampType))
	if value == nil {
		m.fields = m.field("kpush-tombstone", "true")
	}
	m.appendKeyField(b.Key(from))
	if len(r.promoted) > 0 {
		r.promote(m, b, from)
	}
}

func (r *raw) body(m *Message, _ Attempt) []byte { return m.buf }

// field returns the fields of m and one more.
func (m *Message) field(name, value string) []byte {
	return append(append(appendField(m.fields, name), value...), "\r\n"...)
}

// appendKeyField appends a record's key: as it is if it can stand in a header, else
// in base64. A null key has no field.
func (m *Message) appendKeyField(key []byte) {
	switch {
	case key == nil:
	case m.client.key == keyAuto && plainField(key):
		m.fields = append(append(appendField(m.fields, "kpush-key"), key...), "\r\n"...)
	default:
		m.fields = append(appendBase64(appendField(m.fields, "kpush-key-base64"), key), "\r\n"...)
	}
}

// plainField reports whether text comes through as a header's value: printable ASCII
// without spaces at its ends, which are not part of a value.
func plainField(text []byte) bool {
	for _, c := range text {
		if c < ' ' || c > '~' {
			return false
		}
	}
	return len(text) == 0 || text[0] != ' ' && text[len(text)-1] != ' '
}

// promote appends the headers of record i that are on the list, in their order,
// repeats and all. A null one is left out.
func (r *raw) promote(m *Message, b *records.Batch, i int) {
	for j := range b.Headers(i) {
		name, value := b.Header(i, j)
		if field, ok := r.promoted[string(name)]; ok && value != nil {
			m.fields = append(appendPercent(appendField(m.fields, field), value), "\r\n"...)
		}
	}
}

// appendPercent appends value as CloudEvents writes attributes into headers: all bytes
// but those of printable ASCII, and of these the space, the quote and the percent sign,
// as a percent sign and two hexadecimal digits.
func appendPercent(dst, value []byte) []byte {
	const hex = "0123456789ABCDEF"
	for _, c := range value {
		if c <= ' ' || c > '~' || c == '"' || c == '%' {
			dst = append(dst, '%', hex[c>>4], hex[c&15])
		} else {
			dst = append(dst, c)
		}
	}
	return dst
}

// timestampWord is a timestamp type as receivers are told it.
func timestampWord(t records.TimestampType) string {
	switch t {
	case records.TimestampCreate:
		return "create"
	case records.TimestampLogAppend:
		return "log_append"
	default:
		return "none"
	}
}

// octetStream is the type of a value of which nothing is known.
const octetStream = "application/octet-stream"
