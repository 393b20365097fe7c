package receiver

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// kind is a webhook's format.type.
type kind int

const (
	formatEnvelope kind = iota
	formatLines
	formatEvents
	formatRaw
)

// Headers of a delivery; those of its only record are format "raw".
const (
	headerTopic    = "Kpush-Topic"
	headerOffset   = "Kpush-Offset"
	headerPromoted = "Kpush-Header-"
)

// formatOf is the format of a request. What is in it alone does not tell: in "raw" the
// body and its content-type are the producer's, and may look like any other.
func formatOf(h http.Header) kind {
	contentType, _, _ := strings.Cut(h.Get("Content-Type"), ";")
	switch contentType = strings.ToLower(strings.TrimSpace(contentType)); {
	case h[headerOffset] != nil:
		return formatRaw
	case h[headerTopic] == nil: // a lifecycle call
		return formatEnvelope
	case contentType == "application/x-ndjson":
		return formatLines
	case contentType == "application/cloudevents-batch+json":
		return formatEvents
	}
	return formatEnvelope
}

// ParseRequest reads a delivery in any format.type from a request's header and its
// body, which is to be verified and then unpacked before. strings says that the
// webhook's format.value is "string", as in ParseStrings.
//
// In all formats but the envelope what names the delivery and its records is in the
// header, which the signature does not cover: TLS has to keep it. The error is that
// of Parse.
func ParseRequest(h http.Header, body []byte, strings bool) (*Delivery, error) {
	k := formatOf(h)
	switch {
	case k == formatEnvelope:
		return parseDelivery(body, strings)
	case isTest(h):
		return nil, ErrType
	}
	return readDelivery(k, h, body, strings)
}

// isTest tells a test of POST /v1/webhooks/{id}/test. The envelope says it in its body.
func isTest(h http.Header) bool { return h.Get("Kpush-Test") == "true" }

func readDelivery(k kind, h http.Header, body []byte, strings bool) (d *Delivery, err error) {
	f := fields{h: h}
	d = &Delivery{
		ID: f.text(headerID), WebhookID: f.text(headerWebhook), GroupID: f.text("Kpush-Group"), Attempt: int(f.number("Kpush-Attempt", 31)),
		Timestamp: time.Unix(f.number(headerTimestamp, 40), 0).UTC(), Generation: int32(f.number("Kpush-Generation", 32)),
		Topic: f.text(headerTopic), Partition: int32(f.number("Kpush-Partition", 32)),
		FirstOffset: f.number("Kpush-First-Offset", 64), LastOffset: f.number("Kpush-Last-Offset", 64), RecordCount: int(f.number("Kpush-Record-Count", 31)),
		Ticket: Ticket{Token: f.text("Kpush-Ack-Token"), TimeoutMs: f.number("Kpush-Ack-Timeout-Ms", 40)},
	}
	if f.err == nil && (d.Attempt < 1 || d.Partition < 0) {
		f.err = malformed("attempt is %d, the partition %d", d.Attempt, d.Partition)
	}
	if f.err != nil {
		return nil, f.err
	}
	switch k {
	case formatLines:
		d.Records, err = readLines(body, strings)
	case formatEvents:
		d.Records, err = readEvents(body)
	default:
		d.Records, err = readRaw(h, body)
	}
	if err != nil {
		return nil, err
	}
	return d, d.whole()
}

// fields reads header fields that have to be there once, and keeps the first error.
type fields struct {
	h   http.Header
	err error
}

func (f *fields) text(name string) string {
	value, ok := single(f.h, name)
	if !ok && f.err == nil {
		f.err = malformed("%s is not there, or more than once", strings.ToLower(name))
	}
	return value
}

func (f *fields) number(name string, bits int) int64 {
	text := f.text(name)
	n, err := strconv.ParseInt(text, 10, bits)
	if err != nil && f.err == nil {
		f.err = malformed("%s is no number", strings.ToLower(name))
	}
	return n
}

func readLines(body []byte, strings bool) ([]Record, error) {
	if !utf8.Valid(body) {
		return nil, malformed("it is not UTF-8")
	}
	var records []Record
	for line := range bytes.Lines(body) {
		var e envelopeRecord
		err := json.Unmarshal(line, &e)
		if err == nil {
			var r Record
			r, err = e.record(strings)
			records = append(records, r)
		}
		if err != nil {
			return nil, malformed("line %d: %w", len(records)+1, err)
		}
	}
	return records, nil
}

// event is what an event has to have for us.
type event struct {
	Offset          string          `json:"kafkaoffset"`
	Time            string          `json:"time"`
	Key             json.RawMessage `json:"partitionkey"`       // in a producer's own event maybe no text
	KeyBase64       json.RawMessage `json:"partitionkeybase64"` // there maybe anything
	DataContentType string          `json:"datacontenttype"`
	Data            json.RawMessage `json:"data"`
	DataBase64      []byte          `json:"data_base64"`
}

func readEvents(body []byte) ([]Record, error) {
	if !utf8.Valid(body) {
		return nil, malformed("it is not UTF-8")
	}
	var events []json.RawMessage
	if err := json.Unmarshal(body, &events); err != nil {
		return nil, malformed("%w", err)
	}
	records := make([]Record, len(events))
	for i, text := range events {
		var e event
		err := json.Unmarshal(text, &e)
		if err == nil {
			records[i], err = e.record()
		}
		if err != nil {
			return nil, malformed("event %d: %w", i, err)
		}
		records[i].Event = text
	}
	return records, nil
}

func (e *event) record() (r Record, err error) {
	if r.Offset, err = strconv.ParseInt(e.Offset, 10, 64); err != nil {
		return r, errors.New("it has no kafkaoffset")
	}
	if at, err := time.Parse(time.RFC3339, e.Time); err == nil {
		r.Timestamp = at.UTC()
	}
	r.Key = e.key()
	contentType, _, _ := strings.Cut(e.DataContentType, ";")
	switch contentType = strings.TrimSpace(contentType); {
	case e.DataBase64 != nil:
		r.Value = e.DataBase64
	case e.Data == nil:
	case contentType == "" || contentType == "application/json" || contentType == "text/json":
		r.Value = e.Data
	default:
		r.Value, err = text(e.Data, nil)
	}
	return r, err
}

// key is a record's key as far as the event tells one: numbers and truth values, which
// an attribute may be, as they are written.
func (e *event) key() (key []byte) {
	var text string
	switch {
	case e.Key != nil && json.Unmarshal(e.Key, &text) == nil:
		return []byte(text)
	case e.Key != nil:
		return e.Key
	case json.Unmarshal(e.KeyBase64, &key) == nil:
		return key
	}
	return nil
}

func readRaw(h http.Header, body []byte) ([]Record, error) {
	f := fields{h: h}
	r := Record{Offset: f.number(headerOffset, 64), TimestampType: TimestampType(f.text("Kpush-Timestamp-Type")), Value: append([]byte{}, body...)}
	if at := f.number("Kpush-Timestamp", 64); at >= 0 {
		r.Timestamp = time.UnixMilli(at).UTC()
	}
	if f.err != nil {
		return nil, f.err
	}
	if h.Get("Kpush-Tombstone") == "true" {
		r.Value = nil
	}
	if key, ok := h["Kpush-Key"]; ok {
		r.Key = []byte(key[0])
	} else if key, ok := h["Kpush-Key-Base64"]; ok {
		plain, err := base64.StdEncoding.DecodeString(key[0])
		if err != nil {
			return nil, malformed("kpush-key-base64: %w", err)
		}
		r.Key = append([]byte{}, plain...)
	}
	for name, values := range h {
		short, ok := strings.CutPrefix(name, headerPromoted)
		if !ok {
			continue
		}
		for _, value := range values {
			plain, err := url.PathUnescape(value)
			if err != nil {
				return nil, malformed("%s: %w", strings.ToLower(name), err)
			}
			r.Headers = append(r.Headers, Header{strings.ToLower(short), []byte(plain)})
		}
	}
	return []Record{r}, nil
}
