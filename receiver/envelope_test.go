package receiver

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// envelopeText is a delivery with everything in it that an envelope can say. It is
// contract 4's, and a little more.
const envelopeText = `{
  "type": "kafka.records", "timestamp": "2026-09-22T10:00:00.123Z",
  "delivery_id": "dl_3kq9", "webhook_id": "orders-to-billing", "attempt": 2,
  "group_id": "kpush.default.orders-to-billing", "generation": 42,
  "topic": "orders", "partition": 3, "first_offset": 1200, "last_offset": 1206, "record_count": 4,
  "ack": {"token": "kat_1", "url": "https://gw.example.com/ack", "timeout_ms": 30000},
  "records": [
    {"offset": 1200, "timestamp": 1790000000123, "timestamp_type": "create", "key": "o-17",
     "value": {"total": 3},
     "headers": [{"name": "trace", "value": "abc"}, {"name": "trace", "value": null},
                 {"name_base64": "/w==", "value_base64": "AP8="}, {"name": "", "value": ""}]},
    {"offset": 1203, "timestamp": 1790000000200, "timestamp_type": "log_append", "key": null, "value": null, "headers": []},
    {"offset": 1204, "timestamp": -1, "timestamp_type": "none", "key": "", "value_base64": "", "headers": []},
    {"offset": 1206, "timestamp": 0, "timestamp_type": "create", "key_base64": "/wAB", "value": "text", "headers": []}
  ]
}`

func wantDelivery() *Delivery {
	at := func(ms int64) time.Time { return time.UnixMilli(ms).UTC() }
	return &Delivery{
		ID: "dl_3kq9", WebhookID: "orders-to-billing", GroupID: "kpush.default.orders-to-billing", Attempt: 2,
		Timestamp: time.Date(2026, 9, 22, 10, 0, 0, 123_000_000, time.UTC), Generation: 42,
		Topic: "orders", Partition: 3, FirstOffset: 1200, LastOffset: 1206, RecordCount: 4,
		Ticket: Ticket{Token: "kat_1", URL: "https://gw.example.com/ack", TimeoutMs: 30000},
		Records: []Record{
			{Offset: 1200, Timestamp: at(1790000000123), TimestampType: TimestampCreate, Key: []byte("o-17"), Value: []byte(`{"total": 3}`),
				Headers: []Header{{"trace", []byte("abc")}, {"trace", nil}, {"\xff", []byte("\x00\xff")}, {"", []byte{}}}},
			{Offset: 1203, Timestamp: at(1790000000200), TimestampType: TimestampLogAppend},
			{Offset: 1204, TimestampType: TimestampNone, Key: []byte{}, Value: []byte{}},
			{Offset: 1206, Timestamp: at(0), TimestampType: TimestampCreate, Key: []byte("\xff\x00\x01"), Value: []byte(`"text"`)},
		},
	}
}

func TestParse(t *testing.T) {
	got, err := Parse([]byte(envelopeText))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(wantDelivery(), got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if got := got.Ticket.Timeout(); got != 30*time.Second {
		t.Errorf("the ack's timeout is %v, want 30s", got)
	}
	for i, want := range []bool{false, true, false, false} {
		if got := got.Records[i].Tombstone(); got != want {
			t.Errorf("record %d: tombstone is %v, want %v", i, got, want)
		}
	}
	headers := map[string]struct {
		want []byte
		ok   bool
	}{"trace": {nil, true}, "\xff": {[]byte("\x00\xff"), true}, "": {[]byte{}, true}, "Trace": {nil, false}}
	for name, want := range headers {
		if value, ok := got.Records[0].Header(name); ok != want.ok || (value == nil) != (want.want == nil) || !bytes.Equal(value, want.want) {
			t.Errorf("header %q is %q, %v, want %q, %v", name, value, ok, want.want, want.ok)
		}
	}
}

func TestParseStrings(t *testing.T) {
	got, err := ParseStrings([]byte(strings.Replace(envelopeText, `{"total": 3}`, `"caf\u00e9"`, 1)))
	if err != nil {
		t.Fatal(err)
	}
	if first, last := got.Records[0].Value, got.Records[3].Value; string(first) != "café" || string(last) != "text" {
		t.Errorf("values are %q and %q, want the texts", first, last)
	}
	if got.Records[1].Value != nil || got.Records[2].Value == nil {
		t.Errorf("values are %q and %q, want a tombstone and an empty one", got.Records[1].Value, got.Records[2].Value)
	}
	if _, err := ParseStrings([]byte(envelopeText)); !errors.Is(err, ErrMalformed) {
		t.Errorf("an object where a string has to be: got %v, want %v", err, ErrMalformed)
	}
}

// TestParseTakesWhatIsToCome: fields that are new are no reason to refuse records.
func TestParseTakesWhatIsToCome(t *testing.T) {
	text := envelopeText
	for _, at := range []string{`{
  "type"`, `{"token"`, `{"offset"`, `{"name"`} {
		text = strings.ReplaceAll(text, at, strings.Replace(at, "{", `{"new": {"offset": [1, null]}, `, 1))
	}
	text = strings.Replace(text, `"log_append"`, `"by_the_moon"`, 1)
	want := wantDelivery()
	want.Records[1].TimestampType = "by_the_moon"
	got, err := Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestMalformedBodies(t *testing.T) {
	tests := map[string]struct {
		old, new string // in envelopeText
		want     error  // default ErrMalformed
	}{
		"cut short":                           {"]\n}", "", nil},
		"more than one text":                  {"]\n}", "]\n}{}", nil},
		"a byte that is not UTF-8":            {`"o-17"`, "\"\xff\"", nil},
		"no type":                             {`"type": "kafka.records", `, ``, nil},
		"another type":                        {`"kafka.records"`, `"kafka.snapshots"`, ErrType},
		"a test":                              {`"kafka.records"`, `"kafka.records.test"`, ErrType},
		"a lifecycle call":                    {`"kafka.records"`, `"kafka.partitions.lost"`, ErrType},
		"a timestamp that is none":            {`"2026-09-22T10:00:00.123Z"`, `"today"`, nil},
		"no delivery id":                      {`"delivery_id": "dl_3kq9", `, ``, nil},
		"no webhook":                          {`"webhook_id": "orders-to-billing", `, ``, nil},
		"no attempt":                          {`, "attempt": 2`, ``, nil},
		"attempt 0":                           {`"attempt": 2`, `"attempt": 0`, nil},
		"no generation":                       {`, "generation": 42`, ``, nil},
		"a generation beyond 32 bits":         {`"generation": 42`, `"generation": 2147483648`, nil},
		"no topic":                            {`"topic": "orders", `, ``, nil},
		"no partition":                        {`"partition": 3, `, ``, nil},
		"a negative partition":                {`"partition": 3`, `"partition": -1`, nil},
		"no first offset":                     {`"first_offset": 1200, `, ``, nil},
		"another first offset":                {`"first_offset": 1200`, `"first_offset": 1199`, nil},
		"another last offset":                 {`"last_offset": 1206`, `"last_offset": 1207`, nil},
		"another count":                       {`"record_count": 4`, `"record_count": 3`, nil},
		"no token":                            {`"token": "kat_1", `, ``, nil},
		"an empty token":                      {`"kat_1"`, `""`, nil},
		"no ack":                              {`"ack": {`, `"nack": {`, nil},
		"no records":                          {`"records": [`, `"recordings": [`, nil},
		"an offset twice":                     {`"offset": 1203`, `"offset": 1200`, nil},
		"an offset that goes down":            {`"offset": 1204`, `"offset": 1202`, nil},
		"an offset that is no integer":        {`"offset": 1203`, `"offset": 1203.5`, nil},
		"no offset":                           {`"offset": 1203, `, ``, nil},
		"no timestamp of a record":            {`"timestamp": 1790000000200, `, ``, nil},
		"neither key nor key_base64":          {`"key": null, `, ``, nil},
		"key and key_base64":                  {`"key": null`, `"key": null, "key_base64": ""`, nil},
		"a key that is a number":              {`"o-17"`, `17`, nil},
		"neither value nor value_base64":      {`"value": null, "headers"`, `"headers"`, nil},
		"value and value_base64":              {`"value_base64": ""`, `"value_base64": "", "value": null`, nil},
		"base64 that is none":                 {`"AP8="`, `"A"`, nil},
		"base64 that is null":                 {`"value_base64": ""`, `"value_base64": null`, nil},
		"a header without a name":             {`"name": "trace", `, ``, nil},
		"a header whose name is null":         {`"name": "trace"`, `"name": null`, nil},
		"a header whose value is an object":   {`"value": "abc"`, `"value": {}`, nil},
		"a header without a value":            {`, "value": "abc"`, ``, nil},
		"headers that are an object":          {`"headers": []`, `"headers": {}`, nil},
		"records that are one record":         {`"records": [`, `"records": {"a": [`, nil},
		"offsets beyond 64 bits":              {`1206`, `9223372036854775808`, nil},
		"an offset below zero":                {`1200`, `-1`, nil},
		"an ack that is no object":            {`"ack": {`, `"ack": null, "x": {`, nil},
		"a nesting that would exhaust memory": {`{"total": 3}`, strings.Repeat("[", 100_000), nil},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if tt.want == nil {
				tt.want = ErrMalformed
			}
			text := strings.ReplaceAll(envelopeText, tt.old, tt.new)
			if text == envelopeText {
				t.Fatalf("there is no %q in the envelope", tt.old)
			}
			if d, err := Parse([]byte(text)); d != nil || !errors.Is(err, tt.want) {
				t.Errorf("got %v, %v, want %v", d, err, tt.want)
			}
		})
	}
	for _, text := range []string{``, `null`, `[]`, `"kafka.records"`, `{}`} {
		if d, err := Parse([]byte(text)); d != nil || !errors.Is(err, ErrMalformed) {
			t.Errorf("%q: got %v, %v, want %v", text, d, err, ErrMalformed)
		}
	}
}

const noticeText = `{"type":"kafka.partitions.assigned","timestamp":"2026-09-22T10:00:00.123Z","webhook_id":"orders",` +
	`"group_id":"kpush.default.orders","generation":42,"partitions":[{"topic":"orders","partition":3},{"topic":"a","partition":0}],"new":1}`

func TestParseNotice(t *testing.T) {
	for _, kind := range []NoticeType{PartitionsAssigned, PartitionsRevoked, PartitionsLost} {
		got, err := ParseNotice([]byte(strings.Replace(noticeText, "kafka.partitions.assigned", string(kind), 1)))
		if err != nil {
			t.Fatal(err)
		}
		want := &Notice{
			Type: kind, Timestamp: time.Date(2026, 9, 22, 10, 0, 0, 123_000_000, time.UTC),
			WebhookID: "orders", GroupID: "kpush.default.orders", Generation: 42, Partitions: []Partition{{"orders", 3}, {"a", 0}},
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("-want +got:\n%s", diff)
		}
	}
	for name, tt := range map[string]struct {
		old, new string
		want     error
	}{
		"records":                       {`kafka.partitions.assigned`, `kafka.records`, ErrType},
		"another type":                  {`kafka.partitions.assigned`, `kafka.partitions.stolen`, ErrType},
		"no generation":                 {`"generation":42,`, ``, ErrMalformed},
		"no webhook":                    {`"webhook_id":"orders",`, ``, ErrMalformed},
		"a partition without a topic":   {`"topic":"a",`, ``, ErrMalformed},
		"a partition without a number":  {`,"partition":3`, ``, ErrMalformed},
		"a partition below zero":        {`"partition":3`, `"partition":-1`, ErrMalformed},
		"partitions that are no list":   {`[{"topic":"orders","partition":3},{"topic":"a","partition":0}]`, `{}`, ErrMalformed},
		"something after the last word": {`"new":1}`, `"new":1}]`, ErrMalformed},
	} {
		text := strings.Replace(noticeText, tt.old, tt.new, 1)
		if n, err := ParseNotice([]byte(text)); n != nil || !errors.Is(err, tt.want) || text == noticeText {
			t.Errorf("%s: got %v, %v, want %v", name, n, err, tt.want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(envelopeText))
	f.Add([]byte(noticeText))
	f.Add([]byte(strings.ReplaceAll(envelopeText, `"value": {"total": 3}`, `"value": "x"`)))
	f.Add([]byte(strings.ReplaceAll(envelopeText, `"key": null`, `"Key": null`)))
	f.Fuzz(func(t *testing.T, body []byte) {
		d, err := Parse(body)
		n, noticeErr := ParseNotice(body)
		if err == nil && noticeErr == nil {
			t.Fatal("it is a delivery and a lifecycle call")
		}
		for _, err := range []error{err, noticeErr} {
			if err != nil && !errors.Is(err, ErrMalformed) && !errors.Is(err, ErrType) {
				t.Errorf("an error that nobody knows: %v", err)
			}
		}
		if n != nil && (!json.Valid(body) || n.WebhookID == "") {
			t.Errorf("took %+v", n)
		}
		if d == nil {
			return
		}
		if !json.Valid(body) || d.ID == "" || d.WebhookID == "" || d.Topic == "" || d.Partition < 0 || d.Ticket.Token == "" || d.Attempt < 1 {
			t.Errorf("took %+v", d)
		}
		if len(d.Records) != d.RecordCount || d.Records[0].Offset != d.FirstOffset || d.Records[len(d.Records)-1].Offset != d.LastOffset {
			t.Errorf("records do not fit to %d..%d of %d", d.FirstOffset, d.LastOffset, d.RecordCount)
		}
		for i, r := range d.Records {
			if i > 0 && r.Offset <= d.Records[i-1].Offset || r.Offset < 0 {
				t.Errorf("offset %d is record %d", r.Offset, i)
			}
			if r.Tombstone() != (r.Value == nil) || string(r.Value) == "null" && !bytes.Contains(body, []byte("bnVsbA==")) {
				t.Errorf("value %q of record %d", r.Value, i)
			}
		}
		// Nothing of a delivery is the memory of its body.
		body = bytes.Clone(body)
		if d, err = Parse(body); err != nil {
			t.Fatal(err)
		}
		before, err := json.Marshal(d)
		clear(body)
		after, _ := json.Marshal(d)
		if err != nil || !bytes.Equal(before, after) {
			t.Errorf("the delivery shares memory with its body (%v)", err)
		}
	})
}
