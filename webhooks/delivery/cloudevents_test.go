package delivery

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"
	cehttp "github.com/cloudevents/sdk-go/v2/protocol/http"
	"github.com/google/go-cmp/cmp"

	"github.com/kpush/kpush/internal/records"
	"github.com/kpush/kpush/webhooks"
)

// readEvents reads a batch by the Go SDK, as from a request with it, and has the SDK
// check each event.
func readEvents(t testing.TB, body []byte) []event.Event {
	t.Helper()
	req, err := http.NewRequest(http.MethodPost, "/", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/cloudevents-batch+json")
	events, err := cehttp.NewEventsFromHTTPRequest(req)
	if err != nil {
		t.Fatalf("the batch is not read by the SDK: %v\n%.2000s", err, body)
	}
	for _, e := range events {
		if err := e.Validate(); err != nil {
			t.Errorf("an event is not valid: %v\n%s", err, e)
		}
	}
	return events
}

// checkEvents compares events with records [from,to) of b, of which none need be an
// event itself.
func checkEvents(t testing.TB, body []byte, b *records.Batch, from, to int) {
	t.Helper()
	events := readEvents(t, body)
	var plain []map[string]json.RawMessage
	if err := json.Unmarshal(body, &plain); err != nil {
		t.Fatal(err)
	}
	if len(events) != to-from {
		t.Fatalf("%d events, want %d", len(events), to-from)
	}
	for n, e := range events {
		i := from + n
		offset := fmt.Sprint(b.Records[i].Offset)
		if got := e.Extensions()["kafkaoffset"]; got != offset {
			t.Errorf("event %d is of offset %v, want %s", n, got, offset)
		}
		if _, sequenced := e.Extensions()["sequence"]; !sequenced {
			continue // it came as an event
		}
		key := b.Key(i)
		var got []byte
		if text, ok := e.Extensions()["partitionkey"]; ok {
			got = []byte(text.(string))
		} else if coded, ok := e.Extensions()["partitionkeybase64"]; ok {
			got, _ = base64.StdEncoding.DecodeString(coded.(string))
			got = append([]byte{}, got...)
		}
		if !sameBytes(got, key) {
			t.Errorf("event %d has key %q, want %q", n, got, key)
		}
		value := b.Value(i)
		if _, embedded := plain[n]["data"]; embedded && plain[n]["data"][0] != '"' {
			value = trimmed(value)
		} else if embedded && !sameBytes(trimmed(value), e.Data()) {
			value = []byte(e.Data()) // below
			var text string
			if json.Unmarshal(plain[n]["data"], &text) != nil || text != string(b.Value(i)) && string(plain[n]["data"]) != string(trimmed(b.Value(i))) {
				t.Errorf("event %d has data %s, want %q", n, plain[n]["data"], b.Value(i))
			}
		}
		data, inBase64 := e.Data(), plain[n]["data_base64"] != nil
		switch {
		case b.Value(i) == nil:
			if inBase64 || plain[n]["data"] != nil {
				t.Errorf("event %d of a tombstone has data", n)
			}
		case inBase64:
			if string(data) != string(value) {
				t.Errorf("event %d has data %q, want %q", n, data, value)
			}
		case plain[n]["data"] == nil || string(plain[n]["data"]) == "null":
			t.Errorf("event %d has no data, want %q", n, value)
		case string(data) != string(value) && string(data) != string(trimmed(value)):
			t.Errorf("event %d has data %q, want %q", n, data, value)
		}
	}
}

// TestJSONIsNeverATextOfAnEvent: under a type that ends in +json data is JSON to some
// libraries, so that a text would be a string, and text to others, as the Go SDK.
func TestJSONIsNeverATextOfAnEvent(t *testing.T) {
	const value = `{"a":1}`
	b := new(records.Batch)
	b.Append(records.Record{Offset: 1}, nil, []byte(value))
	b.AppendHeader([]byte("content-type"), []byte("application/vnd.order+json; v=1"))
	for _, format := range []string{"auto", "string", "base64"} {
		r := sent(t, b, 0, 1, inFormat(webhooks.FormatCloudEvents, func(f *webhooks.Format) { f.Value = format }))
		if e := readEvents(t, r.body)[0]; string(e.Data()) != value || !bytes.Contains(r.body, []byte(`"data_base64":`)) {
			t.Errorf("format.value %s: the SDK reads %q of %s, want %q, in base64", format, e.Data(), r.body, value)
		}
	}
}

func TestEventsOfPlainRecords(t *testing.T) {
	b := new(records.Batch)
	b.Append(records.Record{Offset: 1200, Timestamp: 1790000000123, TimestampType: records.TimestampCreate}, []byte("o-17"), []byte(`{"total": 3}`))
	b.AppendHeader([]byte("Trace-Id"), []byte("first"))
	b.AppendHeader([]byte("Trace-Id"), []byte("abc"))
	b.AppendHeader([]byte("other"), []byte("x"))
	b.Append(records.Record{Offset: 1203, Timestamp: 1790000000200}, nil, nil)
	b.Append(records.Record{Offset: 9223372036854775807, Timestamp: -1}, []byte{0xff}, []byte{0xff, 0, 1})
	b.AppendHeader([]byte("content-type"), []byte("image/png"))
	r := sent(t, b, 0, 3, inFormat(webhooks.FormatCloudEvents, func(f *webhooks.Format) { f.Headers = []string{"Trace-Id"} }))
	want := `[{"specversion":"1.0","type":"kafka.record","source":"/kafka#orders","id":"3-1200","kafkaoffset":"1200","sequence":"00000000000000001200",` +
		`"time":"2026-09-21T14:13:20.123Z","partitionkey":"o-17","kafkaheadertraceid":"abc","datacontenttype":"application/json","data":{"total": 3}},` +
		`{"specversion":"1.0","type":"kafka.record","source":"/kafka#orders","id":"3-1203","kafkaoffset":"1203","sequence":"00000000000000001203",` +
		`"time":"2026-09-21T14:13:20.200Z"},` +
		`{"specversion":"1.0","type":"kafka.record","source":"/kafka#orders","id":"3-9223372036854775807","kafkaoffset":"9223372036854775807","sequence":"09223372036854775807",` +
		`"partitionkeybase64":"/w==","datacontenttype":"image/png","data_base64":"/wAB"}]`
	if diff := cmp.Diff(want, string(r.body)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if got := r.header.Get("Content-Type"); got != "application/cloudevents-batch+json" {
		t.Errorf("the content type is %q", got)
	}
	e := readEvents(t, r.body)[0]
	if e.Source() != "/kafka#orders" || e.ID() != "3-1200" || e.Type() != "kafka.record" || string(e.Data()) != `{"total": 3}` ||
		!e.Time().Equal(time.UnixMilli(1790000000123)) || e.Extensions()["partitionkey"] != "o-17" {
		t.Errorf("the SDK reads %s", e)
	}
}

func TestEventsValues(t *testing.T) {
	for claim, test := range map[string]struct{ format, contentType, value, want string }{
		"json is data":                               {"auto", "", ` {"a":1} `, `"datacontenttype":"application/json","data": {"a":1} `},
		"with its own type":                          {"auto", "application/json; v=2", `[1]`, `"datacontenttype":"application/json; v=2","data":[1]`},
		"json of a type not all know is bytes":       {"auto", "application/vnd.a+json", `{}`, `"datacontenttype":"application/vnd.a+json","data_base64":"e30="`},
		"what is called json and is not is bytes":    {"auto", "application/json", `{`, `"datacontenttype":"application/json","data_base64":"ew=="`},
		"what is called something else is bytes":     {"auto", "text/plain", `1`, `"datacontenttype":"text/plain","data_base64":"MQ=="`},
		"the text null is not a tombstone":           {"auto", "", `null`, `"datacontenttype":"application/octet-stream","data_base64":"bnVsbA=="`},
		"nor is an empty value":                      {"auto", "", ``, `"datacontenttype":"application/octet-stream","data_base64":""`},
		"string makes a string of text":              {"string", "", `{"a":1}`, `"datacontenttype":"text/plain; charset=utf-8","data":"{\"a\":1}"`},
		"of its own type":                            {"string", "text/csv", `a,b`, `"datacontenttype":"text/csv","data":"a,b"`},
		"but json that is called so stays json":      {"string", "application/json", `"a"`, `"datacontenttype":"application/json","data":"a"`},
		"string leaves other bytes to base64":        {"string", "", "\xff", `"datacontenttype":"application/octet-stream","data_base64":"/w=="`},
		"base64 is always base64":                    {"base64", "application/json", `1`, `"datacontenttype":"application/json","data_base64":"MQ=="`},
		"a content type that is none is passed over": {"auto", "a\r\nb", `1`, `"datacontenttype":"application/json","data":1`},
	} {
		b := recordsOf([]byte(test.value))
		if test.contentType != "" {
			b.AppendHeader([]byte("content-type"), []byte(test.contentType))
		}
		body := sent(t, b, 0, 1, inFormat(webhooks.FormatCloudEvents, func(f *webhooks.Format) { f.Value = test.format })).body
		if _, got, _ := strings.Cut(string(body), `"partitionkey":"key",`); got != test.want+"}]" {
			t.Errorf("%s: got %s, want %s", claim, got, test.want)
		}
		readEvents(t, body)
	}
}

// eventRecord is a record in binary mode with those attributes, name and value in turn.
func eventRecord(contentType, value string, attributes ...string) *records.Batch {
	b := recordsOf([]byte(value))
	if contentType != "" {
		b.AppendHeader([]byte("content-type"), []byte(contentType))
	}
	for i := 0; i < len(attributes); i += 2 {
		b.AppendHeader([]byte("ce_"+attributes[i]), []byte(attributes[i+1]))
	}
	return b
}

var essential = []string{"specversion", "1.0", "id", "7", "source", "https://shop.example.com/orders?x=1", "type", "order.created"}

func TestRecordsThatAreEventsPassThrough(t *testing.T) {
	const head = `[{"specversion":"1.0","kafkaoffset":"1200",`
	for claim, test := range map[string]struct {
		b    *records.Batch
		want string
	}{
		"binary mode": {
			eventRecord("application/json", `{"total":3}`, append(essential, "time", "2026-09-22T10:00:00.5+02:00", "subject", "ü", "tenant", "a", "kafkaoffset", "9")...),
			head + `"id":"7","source":"https://shop.example.com/orders?x=1","type":"order.created","time":"2026-09-22T10:00:00.5+02:00","subject":"ü","tenant":"a","datacontenttype":"application/json","data":{"total":3}}]`,
		},
		"binary mode with bytes": {
			eventRecord("image/png", "\xff\x00", essential...),
			head + `"id":"7","source":"https://shop.example.com/orders?x=1","type":"order.created","datacontenttype":"image/png","data_base64":"/wA="}]`,
		},
		"structured mode": {
			eventRecord("application/cloudevents+json; charset=utf-8", `{"data":{"a" : [1]},"id":"7","kafkaoffset":"9","source":"/a","specversion":"1.0","type":"t","count":3,"ok":true,"subject":null}`),
			head + `"id":"7","source":"/a","type":"t","count":3,"ok":true,"data":{"a" : [1]}}]`,
		},
		"structured mode with bytes": {
			eventRecord("application/cloudevents+json", `{"specversion":"1.0","type":"t","id":"7","source":"/a","datacontenttype":"image/png","data_base64":"/wA="}`),
			head + `"type":"t","id":"7","source":"/a","datacontenttype":"image/png","data_base64":"/wA="}]`,
		},
		"structured mode with text": {
			eventRecord("Application/CloudEvents+JSON", `{"specversion":"1.0","type":"t","id":"7","source":"/a","datacontenttype":"text/plain","data":"a\u0000b"}`),
			head + `"type":"t","id":"7","source":"/a","datacontenttype":"text/plain","data":"a\u0000b"}]`,
		},
		"json of a type that not all know": {
			eventRecord("application/cloudevents+json", `{"specversion":"1.0","type":"t","id":"7","source":"/a","datacontenttype":"application/vnd.a+json","data":{}}`),
			head + `"type":"t","id":"7","source":"/a","datacontenttype":"application/vnd.a+json","data_base64":"e30="}]`,
		},
		"without data": {
			eventRecord("application/cloudevents+json", `{"specversion":"1.0","type":"t","id":"7","source":"/a"}`), head + `"type":"t","id":"7","source":"/a"}]`,
		},
	} {
		body := sent(t, test.b, 0, 1, inFormat(webhooks.FormatCloudEvents)).body
		if string(body) != test.want {
			t.Errorf("%s:\ngot  %s\nwant %s", claim, body, test.want)
		}
		readEvents(t, body)
	}
}

// What only looks like an event would cost a library all events of its batch. It goes
// as any other record does, value and all.
func TestRecordsThatAreAlmostEventsAreWrapped(t *testing.T) {
	binary := func(attributes ...string) *records.Batch {
		return eventRecord("application/json", `{"a":1}`, attributes...)
	}
	structured := func(value string) *records.Batch { return eventRecord("application/cloudevents+json", value) }
	for claim, b := range map[string]*records.Batch{
		"no id":                    binary("specversion", "1.0", "source", "/a", "type", "t"),
		"an empty id":              binary("specversion", "1.0", "id", "", "source", "/a", "type", "t"),
		"another version":          binary("specversion", "0.3", "id", "1", "source", "/a", "type", "t"),
		"a source that is none":    binary("specversion", "1.0", "id", "1", "source", "http://[", "type", "t"),
		"an id twice":              binary(append(essential, "id", "8")...),
		"a time that is none":      binary(append(essential, "time", "yesterday")...),
		"a name with a hyphen":     binary(append(essential, "a-b", "1")...),
		"a name with upper case":   binary(append(essential, "tEnant", "1")...),
		"data as an attribute":     binary(append(essential, "data", "1")...),
		"an attribute not in utf8": binary(append(essential, "tenant", "\xff")...),
		"a line break":             binary(append(essential, "tenant", "a\nb")...),
		"not json":                 structured(`{"specversion":`),
		"not an object":            structured(`[1]`),
		"null":                     structured(`null`),
		"no type":                  structured(`{"specversion":"1.0","id":"7","source":"/a"}`),
		"a null id":                structured(`{"specversion":"1.0","id":null,"source":"/a","type":"t"}`),
		"a number for an id":       structured(`{"specversion":"1.0","id":7,"source":"/a","type":"t"}`),
		"an id given twice":        structured(`{"specversion":"1.0","id":"7","id":"8","source":"/a","type":"t"}`),
		"an object as extension":   structured(`{"specversion":"1.0","id":"7","source":"/a","type":"t","x":{}}`),
		"a large number":           structured(`{"specversion":"1.0","id":"7","source":"/a","type":"t","x":4294967296}`),
		"data twice":               structured(`{"specversion":"1.0","id":"7","source":"/a","type":"t","data":1,"data_base64":"MQ=="}`),
		"data that is no base64":   structured(`{"specversion":"1.0","id":"7","source":"/a","type":"t","data_base64":"?"}`),
		"an object as text":        structured(`{"specversion":"1.0","id":"7","source":"/a","type":"t","datacontenttype":"text/plain","data":{}}`),
	} {
		body := sent(t, b, 0, 1, inFormat(webhooks.FormatCloudEvents)).body
		e := readEvents(t, body)[0]
		if e.ID() != "3-1200" || e.Type() != "kafka.record" || !bytes.Equal(e.Data(), b.Value(0)) {
			t.Errorf("%s: sent as %s", claim, body)
		}
	}
}
