package webhooks

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/oklog/ulid/v2"
)

// Decode reads a webhook from a request body: one JSON object, in which every
// field is optional but url and topics, and in which null stands for a field's
// default. Fields that are unknown, given twice or of the wrong type are refused,
// and a number for a whole-numbered field has to be written in plain digits.
//
// The read-only fields tenant, state, state_reason, created_at and updated_at are
// passed over, so that what GET answered can be PUT back, as is
// signing.public_keys; secret is refused, for it is chosen by a rotation alone.
//
// id is the id in the request's path and the body may only repeat it; with "" it
// is the body's, or a new one if that has none; an empty one is not valid. group_id
// defaults to kpush.<tenant>.<id>.
//
// The webhook that comes back is complete and valid, and the host names in its URLs
// are in ASCII. Errors are ErrMalformed or a
// *ValidationError.
func Decode(data []byte, id string) (Webhook, error) {
	var c complaints
	body, err := readObject(data, &c)
	if err != nil {
		return Webhook{}, err
	}
	w := Default()
	if w.ID = id; id == "" {
		w.ID = NewID()
	}
	binder{&c}.fields("", body, w.binds())
	if id != "" && w.ID != id {
		c.add("/id", "is not the id in the path")
	}
	w.complete(body)
	w.check(&c)
	if err := c.err(); err != nil {
		return Webhook{}, err
	}
	return w, nil
}

// NewID returns a fresh webhook id: "wh_" and a ULID in lower case.
func NewID() string {
	return "wh_" + strings.ToLower(ulid.MustNew(ulid.Now(), rand.Reader).String())
}

// complete fills in what depends on other fields, and writes host names as they
// are dialled. A default gives way to a limit that body sets below it: nobody is to
// be told of a field that he did not send.
func (w *Webhook) complete(body object) {
	w.URL = punycode(w.URL)
	if w.Lifecycle != nil {
		w.Lifecycle.URL = punycode(w.Lifecycle.URL)
	}
	if w.Auth != nil {
		w.Auth.TokenURL = punycode(w.Auth.TokenURL)
	}
	if w.GroupID == "" {
		w.GroupID = fmt.Sprintf("kpush.%s.%s", w.Tenant, w.ID)
	}
	if !body.gives("retry", "initial_backoff_ms") {
		w.Retry.InitialBackoffMs = min(w.Retry.InitialBackoffMs, max(w.Retry.MaxBackoffMs, 1))
	}
	if w.Format.Type == FormatRaw && !body.gives("batch", "max_records") {
		w.Batch.MaxRecords = 1
	}
	if !body.gives("ack", "timeout_ms") {
		w.Ack.TimeoutMs = min(w.Ack.TimeoutMs, max(w.Ack.MaxTimeoutMs, minTimeoutMs))
	}
}

// binds pairs the names of a webhook's fields with the places they go to.
func (w *Webhook) binds() map[string]any {
	return map[string]any{
		"id": &w.ID, "url": &w.URL, "topics": &w.Topics, "group_id": &w.GroupID,
		"description": &w.Description, "labels": &w.Labels,
		"start": &w.Start, "offset_reset": &w.OffsetReset, "isolation_level": &w.IsolationLevel,
		"ordering": &w.Ordering, "max_in_flight": &w.MaxInFlight, "on_exhausted": &w.OnExhausted,
		"on_undecodable": &w.OnUndecodable,
		"batch": map[string]any{
			"max_records": &w.Batch.MaxRecords, "max_bytes": &w.Batch.MaxBytes, "linger_ms": &w.Batch.LingerMs,
		},
		"fetch": map[string]any{
			"min_bytes": &w.Fetch.MinBytes, "max_bytes": &w.Fetch.MaxBytes, "max_wait_ms": &w.Fetch.MaxWaitMs,
			"prefetch_records": &w.Fetch.PrefetchRecords, "prefetch_bytes": &w.Fetch.PrefetchBytes,
		},
		"format": map[string]any{
			"type": &w.Format.Type, "key": &w.Format.Key, "value": &w.Format.Value, "content_encoding": &w.Format.ContentEncoding,
			"source": &w.Format.Source, "event_type": &w.Format.EventType, "headers": &w.Format.Headers,
		},
		"request": map[string]any{"timeout_ms": &w.Request.TimeoutMs, "headers": &w.Request.Headers},
		"ack": map[string]any{
			"mode": &w.Ack.Mode, "timeout_ms": &w.Ack.TimeoutMs, "max_timeout_ms": &w.Ack.MaxTimeoutMs,
		},
		"retry": map[string]any{
			"initial_backoff_ms": &w.Retry.InitialBackoffMs, "max_backoff_ms": &w.Retry.MaxBackoffMs,
			"multiplier": &w.Retry.Multiplier, "max_attempts": &w.Retry.MaxAttempts, "max_age_ms": &w.Retry.MaxAgeMs,
		},
		"limits": map[string]any{
			"records_per_second": &w.Limits.RecordsPerSecond, "requests_per_second": &w.Limits.RequestsPerSecond,
			"bytes_per_second": &w.Limits.BytesPerSecond,
		},
		"dead_letter": map[string]any{"topic": &w.DeadLetter.Topic},
		"signing": map[string]any{
			"enabled": &w.Signing.Enabled, "schemes": &w.Signing.Schemes, "public_keys": readOnly{},
		},
		"lifecycle": &w.Lifecycle,
		"tls": map[string]any{
			"ca": &w.TLS.CA, "client_certificate": &w.TLS.ClientCertificate, "client_key": &w.TLS.ClientKey,
		},
		"auth":   &w.Auth,
		"filter": &w.Filter,

		"tenant": readOnly{}, "state": readOnly{}, "state_reason": readOnly{},
		"created_at": readOnly{}, "updated_at": readOnly{}, "secret": notYours{},
	}
}

type (
	readOnly struct{} // a field that is passed over
	notYours struct{} // the secret, which is not set here
)

// binder puts the values of a document where they belong and complains about
// those that do not fit.
type binder struct{ *complaints }

func (b binder) fields(pointer string, o object, places map[string]any) {
	for _, m := range o {
		place, ok := places[m.name]
		if !ok {
			b.add(child(pointer, m.name), "is not a known field")
			continue
		}
		if m.value != nil {
			b.put(child(pointer, m.name), place, m.value)
		}
	}
}

// put sets place, a pointer to a field or a map of places, to v, which is not null.
func (b binder) put(pointer string, place, v any) {
	switch p := place.(type) {
	case *string:
		*p = b.text(pointer, v)
	case **string:
		s := b.text(pointer, v)
		*p = &s
	case *[]string:
		*p = b.texts(pointer, v)
	case *map[string]string:
		*p = b.textMap(pointer, v)
	case *int:
		*p = int(b.integer(pointer, v, math.MaxInt))
	case *int64:
		*p = b.integer(pointer, v, math.MaxInt64)
	case *float64:
		*p = b.number(pointer, v)
	case *bool:
		is, ok := v.(bool)
		if !ok {
			b.add(pointer, "must be true or false")
		}
		*p = is
	case **Lifecycle:
		*p = new(Lifecycle)
		b.put(pointer, map[string]any{"url": &(*p).URL}, v)
	case **Auth:
		if _, ok := v.(object); !ok {
			b.add(pointer, "must be an object")
			return
		}
		*p = new(Auth)
		b.put(pointer, (*p).binds(), v)
	case map[string]any:
		o, ok := v.(object)
		if !ok {
			b.add(pointer, "must be an object")
		}
		b.fields(pointer, o, p)
	case notYours:
		b.add(pointer, "is made by the gateway; one of your own can be brought by POST /v1/webhooks/{id}/secret/rotate")
	case readOnly:
	default:
		panic(fmt.Sprintf("webhooks: no way to read a %T", place))
	}
}

func (b binder) text(pointer string, v any) string {
	s, ok := v.(string)
	if !ok {
		b.add(pointer, "must be a string")
	}
	return s
}

func (b binder) texts(pointer string, v any) []string {
	values, ok := v.([]any)
	if !ok {
		b.add(pointer, "must be an array of strings")
	}
	texts := make([]string, len(values))
	for i, v := range values {
		texts[i] = b.text(fmt.Sprintf("%s/%d", pointer, i), v)
	}
	return texts
}

func (b binder) textMap(pointer string, v any) map[string]string {
	o, ok := v.(object)
	if !ok {
		b.add(pointer, "must be an object of strings")
	}
	texts := make(map[string]string, len(o))
	for _, m := range o {
		texts[m.name] = b.text(child(pointer, m.name), m.value)
	}
	return texts
}

func (b binder) integer(pointer string, v any, limit int64) int64 {
	n, ok := v.(json.Number)
	i, err := strconv.ParseInt(string(n), 10, 64)
	if !ok || err != nil || i > limit {
		b.add(pointer, "must be a whole number in plain digits, of 64 bits at most")
		return 0
	}
	return i
}

func (b binder) number(pointer string, v any) float64 {
	n, ok := v.(json.Number)
	f, err := strconv.ParseFloat(string(n), 64)
	if !ok || err != nil {
		b.add(pointer, "must be a number")
		return 0
	}
	return f
}
