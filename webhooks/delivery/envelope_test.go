package delivery

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kpush/kpush/internal/records"
	"github.com/kpush/kpush/webhooks"
)

// envelope is the body as a receiver decodes it.
type envelope struct {
	Type        string `json:"type"`
	Timestamp   string `json:"timestamp"`
	DeliveryID  string `json:"delivery_id"`
	WebhookID   string `json:"webhook_id"`
	Attempt     int    `json:"attempt"`
	GroupID     string `json:"group_id"`
	Generation  int32  `json:"generation"`
	Topic       string `json:"topic"`
	Partition   int32  `json:"partition"`
	FirstOffset int64  `json:"first_offset"`
	LastOffset  int64  `json:"last_offset"`
	RecordCount int    `json:"record_count"`
	Ack         struct {
		Token     string `json:"token"`
		URL       string `json:"url"`
		TimeoutMs int    `json:"timeout_ms"`
	} `json:"ack"`
	Records []envelopeRecord `json:"records"`
}

type envelopeRecord struct {
	Offset        int64             `json:"offset"`
	Timestamp     int64             `json:"timestamp"`
	TimestampType string            `json:"timestamp_type"`
	Key           json.RawMessage   `json:"key"`
	KeyBase64     *string           `json:"key_base64"`
	Value         json.RawMessage   `json:"value"`
	ValueBase64   *string           `json:"value_base64"`
	Headers       *[]envelopeHeader `json:"headers"`
}

type envelopeHeader struct {
	Name        json.RawMessage `json:"name"`
	NameBase64  *string         `json:"name_base64"`
	Value       json.RawMessage `json:"value"`
	ValueBase64 *string         `json:"value_base64"`
}

// decodeEnvelope reads a body strictly: unknown fields are errors.
func decodeEnvelope(t testing.TB, body []byte) envelope {
	t.Helper()
	var e envelope
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(&e); err != nil {
		t.Fatalf("the body does not decode: %v\n%.2000s", err, body)
	}
	if d.More() {
		t.Fatalf("the body goes on after the envelope:\n%.2000s", body)
	}
	return e
}

// bytesOf gives back the bytes that a pair of fields stands for; nil is null.
// embedded says that text is the bytes themselves unless it is a null.
func bytesOf(t testing.TB, text json.RawMessage, b64 *string, embedded bool) []byte {
	t.Helper()
	switch {
	case b64 != nil && text != nil:
		t.Fatalf("both %s and base64 %s are there", text, *b64)
	case b64 != nil:
		p, err := base64.StdEncoding.DecodeString(*b64)
		if err != nil {
			t.Fatal(err)
		}
		return append([]byte{}, p...)
	case text == nil:
		t.Fatal("neither the text nor the base64 is there")
	case string(text) == "null":
		return nil
	case embedded:
		return text
	}
	var s string
	if err := json.Unmarshal(text, &s); err != nil {
		t.Fatal(err)
	}
	return []byte(s)
}

// sameBytes tells null, empty and bytes apart.
func sameBytes(a, b []byte) bool { return (a == nil) == (b == nil) && bytes.Equal(a, b) }

// trimmed is what a decoder hands out of an embedded value: without the space around it.
func trimmed(v []byte) []byte { return bytes.Trim(v, " \t\r\n") }

// checkRecords compares what was delivered with what was in Kafka.
func checkRecords(t testing.TB, format webhooks.Format, got []envelopeRecord, b *records.Batch, from int) {
	t.Helper()
	for i, r := range got {
		in := b.Records[from+i]
		if r.Offset != in.Offset || r.Timestamp != in.Timestamp {
			t.Errorf("record %d has offset %d and timestamp %d, want %d and %d", i, r.Offset, r.Timestamp, in.Offset, in.Timestamp)
		}
		if key := bytesOf(t, r.Key, r.KeyBase64, false); !sameBytes(key, b.Key(from+i)) {
			t.Errorf("record %d: key %q, want %q", i, key, b.Key(from+i))
		}
		want := b.Value(from + i)
		if r.ValueBase64 == nil && r.Value != nil && format.Value != "string" {
			want = trimmed(want)
		}
		value := bytesOf(t, r.Value, r.ValueBase64, format.Value != "string")
		if !sameBytes(value, want) && !(value == nil && want == nil) {
			t.Errorf("record %d: value %q, want %q", i, value, want)
		}
		if r.Headers == nil || len(*r.Headers) != b.Headers(from+i) {
			t.Fatalf("record %d has headers %v, want %d of them", i, r.Headers, b.Headers(from+i))
		}
		for j, h := range *r.Headers {
			name, value := b.Header(from+i, j)
			gotName, gotValue := bytesOf(t, h.Name, h.NameBase64, false), bytesOf(t, h.Value, h.ValueBase64, false)
			if !sameBytes(gotName, name) || !sameBytes(gotValue, value) {
				t.Errorf("record %d, header %d is %q: %q, want %q: %q", i, j, gotName, gotValue, name, value)
			}
		}
	}
}

func TestEnvelopeReadsAsInTheContract(t *testing.T) {
	w := testWebhook("http://localhost/")
	c, err := NewClient(testConfig(w))
	if err != nil {
		t.Fatal(err)
	}
	b := new(records.Batch)
	b.Append(records.Record{Offset: 1200, Timestamp: 1790000000123, TimestampType: records.TimestampCreate}, []byte("o-17"), []byte(`{"total": 3}`))
	b.AppendHeader([]byte("trace"), []byte("abc"))
	b.Append(records.Record{Offset: 1203, Timestamp: 1790000000200, TimestampType: records.TimestampLogAppend}, nil, nil)
	b.Append(records.Record{Offset: 1204, Timestamp: -1}, []byte("o-18"), []byte{0xff, 0, 1})
	m := c.Encode("dl_3kq9", "orders", 3, b, 0, 3)
	defer m.Free()
	got := string(m.body(Attempt{Number: 2, Generation: 42, Token: "kat_x", Now: time.UnixMilli(1790000000007).In(time.FixedZone("", 3600))}))
	want := `{"type":"kafka.records","timestamp":"2026-09-21T14:13:20.007Z",` +
		`"delivery_id":"dl_3kq9","webhook_id":"orders-to-billing","attempt":2,` +
		`"group_id":"kpush.default.orders-to-billing","generation":42,` +
		`"topic":"orders","partition":3,"first_offset":1200,"last_offset":1204,"record_count":3,` +
		`"ack":{"token":"kat_x","url":"https://gw.example.com/ack","timeout_ms":30000},` +
		`"records":[` +
		`{"offset":1200,"timestamp":1790000000123,"timestamp_type":"create","key":"o-17","value":{"total": 3},"headers":[{"name":"trace","value":"abc"}]},` +
		`{"offset":1203,"timestamp":1790000000200,"timestamp_type":"log_append","key":null,"value":null,"headers":[]},` +
		`{"offset":1204,"timestamp":-1,"timestamp_type":"none","key":"o-18","value_base64":"/wAB","headers":[]}]}`
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the body differs (-want +got):\n%s", diff)
	}
}

func TestEnvelopeKeysAndValues(t *testing.T) {
	null := []byte(nil)
	for _, test := range []struct {
		claim      string
		format     webhooks.Format
		key, value []byte
		want       string
	}{
		{"a tombstone is a null value", webhooks.Format{Value: "auto"}, []byte("k"), null, `"key":"k","value":null`},
		{"the text null is not a tombstone", webhooks.Format{Value: "auto"}, []byte("k"), []byte("null"), `"key":"k","value_base64":"bnVsbA=="`},
		{"nor is it with space around it", webhooks.Format{Value: "json"}, []byte("k"), []byte(" null"), `"key":"k","value_base64":"IG51bGw="`},
		{"an empty value is empty base64", webhooks.Format{Value: "auto"}, []byte("k"), []byte{}, `"key":"k","value_base64":""`},
		{"in every format", webhooks.Format{Value: "string"}, []byte("k"), []byte{}, `"key":"k","value_base64":""`},
		{"a null key is null", webhooks.Format{}, null, null, `"key":null,"value":null`},
		{"an empty key is empty", webhooks.Format{}, []byte{}, null, `"key":"","value":null`},
		{"a key that is not utf-8 is base64", webhooks.Format{}, []byte{0xff}, null, `"key_base64":"/w==","value":null`},
		{"a key may always be base64", webhooks.Format{Key: "base64"}, []byte("k"), null, `"key_base64":"aw==","value":null`},
		{"json stands unchanged", webhooks.Format{Value: "json"}, []byte("k"), []byte("{ \"a\" : 1.0e2,\n\"a\":\"\\u00e9é\"}"), "\"key\":\"k\",\"value\":{ \"a\" : 1.0e2,\n\"a\":\"\\u00e9é\"}"},
		{"a number is json", webhooks.Format{Value: "auto"}, []byte("k"), []byte("-0.5E+7"), `"key":"k","value":-0.5E+7`},
		{"text that is not json is base64", webhooks.Format{Value: "auto"}, []byte("k"), []byte("hello"), `"key":"k","value_base64":"aGVsbG8="`},
		{"json with bytes that are not utf-8 is base64", webhooks.Format{Value: "auto"}, []byte("k"), []byte("\"\xff\""), `"key":"k","value_base64":"Iv8i"`},
		{"string makes a string of text", webhooks.Format{Value: "string"}, []byte("k"), []byte(`say "null"` + "\n\x00"), `"key":"k","value":"say \"null\"\n\u0000"`},
		{"string makes a string of json, too", webhooks.Format{Value: "string"}, []byte("k"), []byte(`null`), `"key":"k","value":"null"`},
		{"string leaves other bytes to base64", webhooks.Format{Value: "string"}, []byte("k"), []byte("ok\xff"), `"key":"k","value_base64":"b2v/"`},
		{"base64 is always base64", webhooks.Format{Value: "base64"}, []byte("k"), []byte("1"), `"key":"k","value_base64":"MQ=="`},
		{"a tombstone is null there, too", webhooks.Format{Value: "base64"}, []byte("k"), null, `"key":"k","value":null`},
		{"line separators stay as they are", webhooks.Format{Value: "string"}, []byte("\u2028"), []byte("\u2029</script>"), "\"key\":\"\u2028\",\"value\":\"\u2029</script>\""},
	} {
		t.Run(test.claim, func(t *testing.T) {
			c := testClient(t, "http://localhost", func(w *webhooks.Webhook) { w.Format = test.format })
			b := new(records.Batch)
			b.Append(records.Record{Offset: 1, TimestampType: records.TimestampCreate}, test.key, test.value)
			m := c.Encode("dl_1", "orders", 0, b, 0, 1)
			defer m.Free()
			body := m.body(testAttempt(1))
			want := `{"offset":1,"timestamp":0,"timestamp_type":"create",` + test.want + `,"headers":[]}]}`
			if _, got, _ := strings.Cut(string(body), `"records":[`); got != want {
				t.Errorf("got  %s\nwant %s", got, want)
			}
			decodeEnvelope(t, body)
		})
	}
}

func TestEnvelopeHeadersKeepOrderRepeatsAndNulls(t *testing.T) {
	c := testClient(t, "http://localhost")
	b := recordsOf([]byte("1"))
	b.AppendHeader([]byte("a"), []byte("1"))
	b.AppendHeader([]byte("b\xff"), []byte("\xfe"))
	b.AppendHeader([]byte("a"), nil)
	b.AppendHeader([]byte(""), []byte(""))
	m := c.Encode("dl_1", "orders", 0, b, 0, 1)
	defer m.Free()
	_, got, _ := strings.Cut(string(m.body(testAttempt(1))), `"headers":`)
	want := `[{"name":"a","value":"1"},{"name_base64":"Yv8=","value_base64":"/g=="},{"name":"a","value":null},{"name":"","value":""}]}]}`
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestEncodeTakesAnyPartOfABatch(t *testing.T) {
	c := testClient(t, "http://localhost")
	b := batchOf(10, 50, false)
	for _, part := range [][2]int{{0, 10}, {0, 1}, {9, 10}, {3, 7}} {
		m := c.Encode("dl_1", "orders", 0, b, part[0], part[1])
		e := decodeEnvelope(t, m.body(testAttempt(1)))
		if e.FirstOffset != b.Records[part[0]].Offset || e.LastOffset != b.Records[part[1]-1].Offset || e.RecordCount != len(e.Records) || len(e.Records) != part[1]-part[0] {
			t.Errorf("records %v: offsets %d to %d, count %d, %d records", part, e.FirstOffset, e.LastOffset, e.RecordCount, len(e.Records))
		}
		checkRecords(t, c.format(), e.Records, b, part[0])
		m.Free()
	}
}

// format is what checkRecords has to know of a client.
func (c *Client) format() webhooks.Format {
	if c.value == valueString {
		return webhooks.Format{Value: "string"}
	}
	return webhooks.Format{Value: "auto"}
}

func TestLaterAttemptsChangeTheHeadOnly(t *testing.T) {
	c := testClient(t, "http://localhost")
	m := testMessage(t, c, 3, 200)
	records := func(body []byte) string {
		_, tail, _ := bytes.Cut(body, []byte(`"records":`))
		return string(tail)
	}
	first := records(m.body(testAttempt(1)))
	for n, token := range []string{"t", strings.Repeat("long", 2_000), "", `"quoted"`} {
		body := m.body(Attempt{Number: n + 2, Generation: int32(n), Token: token, Now: time.Now()})
		e := decodeEnvelope(t, body)
		if e.Attempt != n+2 || e.Generation != int32(n) || e.Ack.Token != token {
			t.Errorf("attempt %d has number %d, generation %d and a token of %d bytes", n+2, e.Attempt, e.Generation, len(e.Ack.Token))
		}
		if got := records(body); got != first {
			t.Errorf("attempt %d changed the records", n+2)
		}
	}
	if got := c.headroom.Load(); got < 8_000 {
		t.Errorf("the headroom stayed at %d bytes after a head of more than 8000", got)
	}
}

func TestAppendBase64AgreesWithTheStandardLibrary(t *testing.T) {
	p := make([]byte, 300)
	for i := range p {
		p[i] = byte(i*7 + i>>3)
	}
	for n := range p {
		got, want := string(appendBase64([]byte("x"), p[:n])), "x"+base64.StdEncoding.EncodeToString(p[:n])
		if got != want {
			t.Errorf("%d bytes: got %s, want %s", n, got, want)
		}
	}
}

// FuzzEnvelope delivers records of any bytes and reads exactly them back.
func FuzzEnvelope(f *testing.F) {
	f.Add([]byte("key"), []byte(`{"a":1}`), []byte("name"), []byte("value"), uint8(0))
	f.Add([]byte("\xff"), []byte("null"), []byte("\x00\xff"), []byte(`"\`), uint8(7))
	f.Add([]byte(""), []byte(""), []byte(""), []byte(""), uint8(0xff))
	f.Fuzz(func(t *testing.T, key, value, name, headerValue []byte, choice uint8) {
		format := webhooks.Format{Key: []string{"auto", "base64"}[choice&1], Value: []string{"auto", "json", "string", "base64"}[choice>>1&3]}
		c, err := NewClient(testConfig(testWebhook("http://localhost", func(w *webhooks.Webhook) { w.Format = format })))
		if err != nil {
			t.Fatal(err)
		}
		if choice&8 != 0 {
			key = nil
		}
		if choice&16 != 0 {
			value = nil
		}
		if choice&32 != 0 {
			headerValue = nil
		}
		b := new(records.Batch)
		for range 2 {
			b.Append(records.Record{Offset: 5, Timestamp: 6}, key, value)
			b.AppendHeader(name, headerValue)
			b.AppendHeader(value, key)
		}
		m := c.Encode("dl_1", "orders", 0, b, 0, 2)
		defer m.Free()
		e := decodeEnvelope(t, m.body(testAttempt(1)))
		if len(e.Records) != 2 {
			t.Fatalf("got %d records, want 2", len(e.Records))
		}
		checkRecords(t, format, e.Records, b, 0)
	})
}
