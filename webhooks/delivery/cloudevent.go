package delivery

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/kpush/kpush/internal/records"
)

// member is a context attribute of an event that was in a record: in binary mode
// its text, in structured mode its JSON.
type member struct {
	name  string
	value []byte
}

// Names of the CloudEvents Kafka protocol binding, 1.0.
const (
	attributePrefix  = "ce_"
	structuredEvents = "application/cloudevents+json"
)

// appendEvent appends the event that record i is, if it is one: with all that the
// producer gave it, and our kafkaoffset. One that does not keep the rules of
// CloudEvents is none. The result is to be dropped when ok is false.
func (m *Message) appendEvent(dst []byte, b *records.Batch, i int) (_ []byte, ok bool) {
	if b.Headers(i) == 0 {
		return dst, false
	}
	contentType := contentTypeOf(b, i)
	if strings.EqualFold(mediaType(contentType), structuredEvents) {
		return m.appendStructured(dst, b.Value(i), b.Records[i].Offset)
	}
	return m.appendBinary(dst, contentType, b, i)
}

// appendBinary appends the event whose attributes are headers and whose data is the
// value.
func (m *Message) appendBinary(dst []byte, contentType string, b *records.Batch, i int) (_ []byte, ok bool) {
	event := m.event[:0]
	for j := range b.Headers(i) {
		name, value := b.Header(i, j)
		short, found := bytes.CutPrefix(name, []byte(attributePrefix))
		if !found {
			continue
		}
		if string(short) == "datacontenttype" || !legalText(value) || !validAttribute(string(short), string(value)) {
			return dst, false
		}
		event = append(event, member{string(short), value})
	}
	m.event = event
	if !complete(event) {
		return dst, false
	}
	dst = appendOffset(append(dst, `{"specversion":"1.0"`...), b.Records[i].Offset)
	for _, a := range event {
		if a.name != "specversion" && a.name != offsetAttribute {
			dst, _ = appendString(append(append(append(dst, `,"`...), a.name...), `":`...), a.value)
		}
	}
	return append(m.appendData(dst, contentType, b.Value(i)), '}'), true
}

const offsetAttribute = "kafkaoffset"

// required are the attributes without which there is no event.
var required = [...]string{"specversion", "id", "source", "type"}

// complete reports whether an event has all that it must have, and nothing twice.
func complete(event []member) bool {
	found := 0
	for n, a := range event {
		for _, before := range event[:n] {
			if before.name == a.name {
				return false
			}
		}
		for _, name := range required {
			if name == a.name {
				found++
			}
		}
	}
	return found == len(required)
}

// validAttribute reports whether an attribute may be called and be so; value is legal
// text.
func validAttribute(name, value string) bool {
	switch name {
	case "specversion":
		return value == "1.0"
	case "id", "type", "subject":
		return value != ""
	case "source", "dataschema":
		_, err := url.Parse(value)
		return value != "" && err == nil
	case "time":
		_, err := time.Parse(time.RFC3339, value)
		return err == nil && !strings.Contains(value, ",") // Go takes a comma before the fraction
	case "datacontenttype":
		return validMediaType([]byte(value))
	case "data", "":
		return false
	}
	return strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789") == ""
}

// appendStructured appends the event that is a value of JSON. Its attributes and its
// data stay as they were written; attributes that are null, which means that they are
// not there, are left out, since not all libraries know that.
func (m *Message) appendStructured(dst, value []byte, offset int64) (_ []byte, ok bool) {
	if !m.check.embeddable(value) {
		return dst, false
	}
	event, ok := membersOf(m.event[:0], value)
	m.event = event
	if !ok {
		return dst, false
	}
	contentType, data := "", json.RawMessage(nil)
	dst = appendOffset(append(dst, `{"specversion":"1.0"`...), offset)
	kept := event[:0]
	for _, a := range event {
		switch {
		case a.name == "data":
			data = a.value
			kept = append(kept, a)
			continue
		case string(a.value) == "null":
			continue
		case a.name == "data_base64":
			if !isBase64(a.value) {
				return dst, false
			}
		case !validMember(a):
			return dst, false
		case a.name == "datacontenttype":
			contentType = textOf(a.value)
		}
		kept = append(kept, a)
		if a.name != "specversion" && a.name != offsetAttribute {
			dst = append(append(append(append(dst, `,"`...), a.name...), `":`...), a.value...)
		}
	}
	if !complete(kept) || data != nil && hasMember(kept, "data_base64") {
		return dst, false
	}
	switch kind := mediaType(contentType); {
	case data == nil:
	case kind == "" || isJSONType(kind) || data[0] == '"' && !strings.HasSuffix(kind, "+json"):
		dst = append(append(dst, `,"data":`...), data...)
	case strings.HasSuffix(kind, "+json"):
		dst = appendBase64Rest(append(dst, `,"data_base64":"`...), data)
	default:
		return dst, false // neither JSON nor text
	}
	return append(dst, '}'), true
}

// membersOf lists the members of a JSON object.
func membersOf(dst []member, value []byte) (_ []member, ok bool) {
	d := json.NewDecoder(bytes.NewReader(value))
	if open, err := d.Token(); err != nil || open != json.Delim('{') {
		return dst, false
	}
	for d.More() {
		name, err := d.Token()
		text, isText := name.(string)
		var value json.RawMessage
		if err != nil || !isText || d.Decode(&value) != nil {
			return dst, false
		}
		dst = append(dst, member{text, value})
	}
	_, err := d.Token()
	if err != nil {
		return dst, false
	}
	_, err = d.Token()
	return dst, err == io.EOF
}

func hasMember(event []member, name string) bool {
	for _, a := range event {
		if a.name == name {
			return true
		}
	}
	return false
}

// validMember is validAttribute for JSON: extensions may be numbers of 32 bits and
// truth values as well as text.
func validMember(a member) bool {
	if a.value[0] == '"' {
		text := textOf(a.value)
		return legalText([]byte(text)) && validAttribute(a.name, text)
	}
	switch a.name {
	case "specversion", "id", "type", "subject", "source", "dataschema", "time", "datacontenttype":
		return false
	}
	_, err := strconv.ParseInt(string(a.value), 10, 32)
	return (err == nil || string(a.value) == "true" || string(a.value) == "false") && validAttribute(a.name, "")
}

// textOf reads a JSON string that is known to be one.
func textOf(value []byte) string {
	var text string
	_ = json.Unmarshal(value, &text)
	return text
}

// isBase64 reports whether a JSON string is base64 written without escapes, which one
// library does not expect there.
func isBase64(value []byte) bool {
	if len(value) < 2 || value[0] != '"' {
		return false
	}
	inner := value[1 : len(value)-1]
	_, err := base64.StdEncoding.Strict().DecodeString(string(inner))
	return err == nil && !bytes.ContainsAny(inner, "\\\r\n")
}
