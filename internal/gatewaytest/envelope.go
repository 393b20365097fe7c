package gatewaytest

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"

	"github.com/twmb/franz-go/pkg/kgo"
)

// Digest stands for the bytes of a record: key, value, headers and timestamp,
// where null and empty differ. Digests compare within one process only.
type Digest uint64

var digestSeed = maphash.MakeSeed()

// DigestOf is the digest of a record as Kafka holds it.
func DigestOf(r *kgo.Record) Digest {
	d := newDigester()
	d.bytes(r.Key)
	d.value(r.Value)
	for _, h := range r.Headers {
		d.bytes([]byte(h.Key))
		d.bytes(h.Value)
	}
	return d.sum(r.Timestamp.UnixMilli())
}

// digester frames every field by its length, so that no two records share a text.
type digester struct{ hash maphash.Hash }

func newDigester() *digester {
	d := new(digester)
	d.hash.SetSeed(digestSeed)
	return d
}

func (d *digester) bytes(p []byte) {
	length := int64(len(p))
	if p == nil {
		length = -1
	}
	d.int(length)
	d.hash.Write(p)
}

// jsonSpace is what may stand around a JSON text without being part of it.
const jsonSpace = " \t\r\n"

// value leaves out the white space around a value that is JSON: it is embedded
// in the envelope as it stands, where no reader of JSON can tell it from the
// envelope's own.
func (d *digester) value(p []byte) {
	if trimmed := bytes.Trim(p, jsonSpace); len(trimmed) < len(p) && json.Valid(p) {
		p = trimmed
	}
	d.bytes(p)
}

func (d *digester) int(n int64) {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], uint64(n))
	d.hash.Write(b[:])
}

func (d *digester) sum(timestamp int64) Digest {
	d.int(timestamp)
	return Digest(d.hash.Sum64())
}

// envelope is the body of a delivery: contract section 4.
type envelope struct {
	Type        string         `json:"type"`
	Timestamp   string         `json:"timestamp"`
	DeliveryID  string         `json:"delivery_id"`
	WebhookID   string         `json:"webhook_id"`
	Attempt     int            `json:"attempt"`
	GroupID     string         `json:"group_id"`
	Generation  int32          `json:"generation"`
	Topic       string         `json:"topic"`
	Partition   int32          `json:"partition"`
	FirstOffset int64          `json:"first_offset"`
	LastOffset  int64          `json:"last_offset"`
	RecordCount int            `json:"record_count"`
	Ack         envelopeAck    `json:"ack"`
	Records     []envelopeItem `json:"records"`
}

type envelopeAck struct {
	Token     string `json:"token"`
	URL       string `json:"url"`
	TimeoutMs int    `json:"timeout_ms"`
}

type envelopeItem struct {
	Offset        int64            `json:"offset"`
	Timestamp     int64            `json:"timestamp"`
	TimestampType string           `json:"timestamp_type"`
	Key           json.RawMessage  `json:"key"`
	KeyBase64     []byte           `json:"key_base64"`
	Value         json.RawMessage  `json:"value"`
	ValueBase64   []byte           `json:"value_base64"`
	Headers       []envelopeHeader `json:"headers"`
}

type envelopeHeader struct {
	Name        json.RawMessage `json:"name"`
	NameBase64  []byte          `json:"name_base64"`
	Value       json.RawMessage `json:"value"`
	ValueBase64 []byte          `json:"value_base64"`
}

// decodeEnvelope reads a body and refuses fields that the contract does not name.
func decodeEnvelope(body []byte) (*envelope, error) {
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.DisallowUnknownFields()
	e := new(envelope)
	if err := decoder.Decode(e); err != nil {
		return nil, fmt.Errorf("decoding the envelope: %w", err)
	}
	if e.Type != "kafka.records" {
		return nil, fmt.Errorf("envelope is of type %q", e.Type)
	}
	if len(e.Records) != e.RecordCount || len(e.Records) == 0 {
		return nil, fmt.Errorf("record_count says %d, the envelope holds %d", e.RecordCount, len(e.Records))
	}
	if first, last := e.Records[0].Offset, e.Records[len(e.Records)-1].Offset; first != e.FirstOffset || last != e.LastOffset {
		return nil, fmt.Errorf("envelope names offsets %d..%d, its records are %d..%d", e.FirstOffset, e.LastOffset, first, last)
	}
	return e, nil
}

// record is what the item carried, with the digest that the same bytes have in Kafka.
func (i *envelopeItem) record() (Record, error) {
	d := newDigester()
	key, err := text(i.Key, i.KeyBase64)
	if err != nil {
		return Record{}, fmt.Errorf("key of offset %d: %w", i.Offset, err)
	}
	d.bytes(key)
	value, err := embedded(i.Value, i.ValueBase64)
	if err != nil {
		return Record{}, fmt.Errorf("value of offset %d: %w", i.Offset, err)
	}
	d.value(value)
	for n := range i.Headers {
		name, err := text(i.Headers[n].Name, i.Headers[n].NameBase64)
		if err != nil {
			return Record{}, fmt.Errorf("name of header %d of offset %d: %w", n, i.Offset, err)
		}
		d.bytes(name)
		value, err := text(i.Headers[n].Value, i.Headers[n].ValueBase64)
		if err != nil {
			return Record{}, fmt.Errorf("value of header %d of offset %d: %w", n, i.Offset, err)
		}
		d.bytes(value)
	}
	return Record{Offset: i.Offset, Timestamp: i.Timestamp, Size: len(value), Digest: d.sum(i.Timestamp)}, nil
}

var errOneForm = errors.New("want exactly one of the plain and the base64 form")

// embedded is a value: JSON as it stands, null for a tombstone, or base64.
func embedded(plain json.RawMessage, base64 []byte) ([]byte, error) {
	switch {
	case (plain == nil) == (base64 == nil):
		return nil, errOneForm
	case base64 != nil:
		return base64, nil
	case string(plain) == "null":
		return nil, nil
	}
	return plain, nil
}

// text is a key, or a header's name or value: a JSON string, null, or base64.
func text(plain json.RawMessage, base64 []byte) ([]byte, error) {
	raw, err := embedded(plain, base64)
	if err != nil || raw == nil || base64 != nil {
		return raw, err
	}
	var s string
	if err := json.Unmarshal(plain, &s); err != nil {
		return nil, err
	}
	return []byte(s), nil
}
