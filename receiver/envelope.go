package receiver

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"
	"unicode/utf8"
)

// Why a body cannot be read.
var (
	// ErrMalformed means that a body is not an envelope of records or a lifecycle
	// call, or contradicts itself.
	ErrMalformed = errors.New("the body is malformed")

	// ErrType means that a body is of another type than what was asked for.
	ErrType = errors.New("the body is of another type")
)

const (
	typeRecords = "kafka.records"
	typeTest    = "kafka.records.test" // of POST /v1/webhooks/{id}/test: a record that is in no topic
)

// Parse reads the body of a delivery in the default format, the envelope, of a
// webhook whose format.value is not "string". Fields that it does not know are
// passed over; what names a record, what it takes to ack and the records
// themselves have to be there and to fit together. The body is to be verified
// before. Nothing of the delivery shares memory with it.
//
// The error is ErrMalformed, or ErrType for a lifecycle call, a test, or a type that
// is unknown.
func Parse(body []byte) (*Delivery, error) { return parseDelivery(body, false) }

// ParseStrings is Parse for a webhook whose format.value is "string": a JSON
// string stands for the text in it. The envelope does not tell, and with any other
// format the string is itself the JSON text that is in Kafka, with its quotes.
func ParseStrings(body []byte) (*Delivery, error) { return parseDelivery(body, true) }

// ParseNotice reads the body of a lifecycle call, with the errors of Parse.
func ParseNotice(body []byte) (*Notice, error) {
	e, err := decode(body)
	if err != nil {
		return nil, err
	}
	if !e.isNotice() {
		return nil, ErrType
	}
	return e.notice()
}

func parseDelivery(body []byte, strings bool) (*Delivery, error) {
	e, err := decode(body)
	if err != nil {
		return nil, err
	}
	if e.Type != typeRecords {
		return nil, ErrType
	}
	return e.delivery(strings)
}

// envelope is the body of a request of either kind. What may be missing in one
// that is malformed and has a meaning as zero is a pointer.
type envelope struct {
	Type        string           `json:"type"`
	Timestamp   time.Time        `json:"timestamp"`
	DeliveryID  string           `json:"delivery_id"`
	WebhookID   string           `json:"webhook_id"`
	Attempt     int              `json:"attempt"`
	GroupID     string           `json:"group_id"`
	Generation  *int32           `json:"generation"`
	Topic       string           `json:"topic"`
	Partition   *int32           `json:"partition"`
	FirstOffset *int64           `json:"first_offset"`
	LastOffset  *int64           `json:"last_offset"`
	RecordCount int              `json:"record_count"`
	Ack         Ticket           `json:"ack"`
	Records     []envelopeRecord `json:"records"`

	Partitions []struct {
		Topic     string `json:"topic"`
		Partition *int32 `json:"partition"`
	} `json:"partitions"`
}

type envelopeRecord struct {
	Offset        *int64           `json:"offset"`
	Timestamp     *int64           `json:"timestamp"`
	TimestampType TimestampType    `json:"timestamp_type"`
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

func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: %w", ErrMalformed, fmt.Errorf(format, args...))
}

// decode reads a body of either kind. One that is not UTF-8 is refused: the
// decoder would put replacement characters into keys.
func decode(body []byte) (*envelope, error) {
	if !utf8.Valid(body) {
		return nil, malformed("it is not UTF-8")
	}
	e := new(envelope)
	if err := json.Unmarshal(body, e); err != nil {
		return nil, malformed("%w", err)
	}
	switch {
	case e.Type == "":
		return nil, malformed("it has no type")
	case e.Type != typeRecords && e.Type != typeTest && !e.isNotice():
		return nil, ErrType
	case e.WebhookID == "":
		return nil, malformed("it has no webhook_id")
	case e.Generation == nil:
		return nil, malformed("it has no generation")
	}
	return e, nil
}

func (e *envelope) isNotice() bool {
	switch NoticeType(e.Type) {
	case PartitionsAssigned, PartitionsRevoked, PartitionsLost:
		return true
	}
	return false
}

func (e *envelope) notice() (*Notice, error) {
	n := &Notice{
		Type: NoticeType(e.Type), Timestamp: e.Timestamp,
		WebhookID: e.WebhookID, GroupID: e.GroupID, Generation: *e.Generation,
		Partitions: make([]Partition, len(e.Partitions)),
	}
	for i, p := range e.Partitions {
		if p.Topic == "" || p.Partition == nil || *p.Partition < 0 {
			return nil, malformed("partition %d of the list has no topic or number", i)
		}
		n.Partitions[i] = Partition{p.Topic, *p.Partition}
	}
	return n, nil
}

func (e *envelope) delivery(strings bool) (*Delivery, error) {
	switch {
	case e.DeliveryID == "":
		return nil, malformed("it has no delivery_id")
	case e.Attempt < 1:
		return nil, malformed("attempt is %d", e.Attempt)
	case e.Topic == "":
		return nil, malformed("it has no topic")
	case e.Partition == nil || *e.Partition < 0:
		return nil, malformed("it has no partition")
	case e.Ack.Token == "":
		return nil, malformed("it has no ack token")
	case e.FirstOffset == nil || e.LastOffset == nil:
		return nil, malformed("it has no offsets")
	}
	d := &Delivery{
		ID: e.DeliveryID, WebhookID: e.WebhookID, GroupID: e.GroupID, Attempt: e.Attempt,
		Timestamp: e.Timestamp, Generation: *e.Generation, Topic: e.Topic, Partition: *e.Partition,
		FirstOffset: *e.FirstOffset, LastOffset: *e.LastOffset, RecordCount: e.RecordCount,
		Records: make([]Record, len(e.Records)), Ticket: e.Ack,
	}
	for i := range e.Records {
		r, err := e.Records[i].record(strings)
		if err != nil {
			return nil, malformed("record %d: %w", i, err)
		}
		d.Records[i] = r
	}
	if err := d.whole(); err != nil {
		return nil, err
	}
	return d, nil
}

// whole reports whether a delivery holds the records that it says.
func (d *Delivery) whole() error {
	if len(d.Records) == 0 || len(d.Records) != d.RecordCount {
		return malformed("it holds %d records, and %d by its own word", len(d.Records), d.RecordCount)
	}
	for i := 1; i < len(d.Records); i++ {
		if d.Records[i].Offset <= d.Records[i-1].Offset {
			return malformed("offset %d stands after %d", d.Records[i].Offset, d.Records[i-1].Offset)
		}
	}
	if first, last := d.Records[0].Offset, d.Records[len(d.Records)-1].Offset; first != d.FirstOffset || last != d.LastOffset || first < 0 {
		return malformed("its records are %d..%d, it says %d..%d", first, last, d.FirstOffset, d.LastOffset)
	}
	return nil
}

func (e *envelopeRecord) record(strings bool) (r Record, err error) {
	if e.Offset == nil || e.Timestamp == nil {
		return r, errors.New("it has no offset or timestamp")
	}
	r.Offset, r.TimestampType = *e.Offset, e.TimestampType
	if *e.Timestamp >= 0 {
		r.Timestamp = time.UnixMilli(*e.Timestamp).UTC()
	}
	if r.Key, err = text(e.Key, e.KeyBase64); err != nil {
		return r, fmt.Errorf("its key: %w", err)
	}
	if strings {
		r.Value, err = text(e.Value, e.ValueBase64)
	} else {
		r.Value, err = embedded(e.Value, e.ValueBase64)
	}
	if err != nil {
		return r, fmt.Errorf("its value: %w", err)
	}
	if len(e.Headers) > 0 {
		r.Headers = make([]Header, len(e.Headers))
	}
	for i := range e.Headers {
		if r.Headers[i], err = e.Headers[i].header(); err != nil {
			return r, fmt.Errorf("its header %d: %w", i, err)
		}
	}
	return r, nil
}

func (e *envelopeHeader) header() (Header, error) {
	name, err := text(e.Name, e.NameBase64)
	if err != nil {
		return Header{}, err
	}
	if name == nil {
		return Header{}, errors.New("its name is null")
	}
	value, err := text(e.Value, e.ValueBase64)
	return Header{string(name), value}, err
}

var errForms = errors.New("want one of the plain and the base64 form")

// embedded is a value: JSON as it stands, null for a tombstone, or base64.
func embedded(plain json.RawMessage, base64 []byte) ([]byte, error) {
	switch {
	case (plain == nil) == (base64 == nil):
		return nil, errForms
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
	return []byte(s), nil // not nil for an empty one
}
