package receiver_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"
	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"

	"github.com/kpush/kpush/internal/records"
	"github.com/kpush/kpush/receiver"
	"github.com/kpush/kpush/webhooks"
	"github.com/kpush/kpush/webhooks/delivery"
)

// unzstd is what README tells to do about zstd.
func unzstd(_ string, packed io.Reader) (io.ReadCloser, error) {
	d, err := zstd.NewReader(packed, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(8<<20))
	if err != nil {
		return nil, err
	}
	return d.IOReadCloser(), nil
}

// delivered sends b to a Handler, one delivery or, in format raw, one for each record,
// and returns the records that came, and the deliveries without them.
func delivered(t *testing.T, b *records.Batch, edits ...func(*webhooks.Webhook)) ([]receiver.Record, []*receiver.Delivery) {
	t.Helper()
	var got []receiver.Record
	var ds []*receiver.Delivery
	h := &receiver.Handler{Secrets: secrets(t), Decompress: unzstd, Deliver: func(_ context.Context, d *receiver.Delivery) (receiver.Ack, error) {
		got = append(got, d.Records...)
		d.Records = nil
		ds = append(ds, d)
		return receiver.Ack{}, nil
	}}
	h.Report = func(_ *http.Request, status int, err error) { t.Errorf("answered %d: %v", status, err) }
	w := webhooks.Default()
	for _, edit := range edits {
		edit(&w)
	}
	h.StringValues = w.Format.Value == "string" // before config has h serve
	cfg := config(t, h, edits...)
	c, err := delivery.NewClient(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	step := min(cfg.Webhook.Batch.MaxRecords, b.Len())
	for i := 0; i < b.Len(); i += step {
		m := c.Encode("dl_3kq9", "orders", 3, b, i, i+step)
		if res := c.Send(t.Context(), m, delivery.Attempt{Number: 2, Generation: 42, Token: "kat_1", Now: time.Now()}); res.Verdict != delivery.Acked {
			t.Errorf("record %d: %+v", i, res)
		}
		m.Free()
	}
	return got, ds
}

func formatted(kind, encoding, value string) func(*webhooks.Webhook) {
	return func(w *webhooks.Webhook) {
		w.Format.Type, w.Format.ContentEncoding, w.Format.Value = kind, encoding, value
		if kind == webhooks.FormatRaw {
			w.Batch.MaxRecords = 1
		}
	}
}

// TestEveryFormatIsReadAsWhatIsInKafka: in each of them, packed or not, every byte comes
// through, and null is not taken for empty.
func TestEveryFormatIsReadAsWhatIsInKafka(t *testing.T) {
	b := oddBatch()
	b.Records[len(b.Records)-1].Timestamp = -1
	for _, f := range []struct{ kind, encoding, value string }{
		{"envelope", "gzip", "auto"}, {"envelope", "zstd", "string"},
		{"ndjson", "identity", "auto"}, {"ndjson", "gzip", "string"}, {"ndjson", "zstd", "base64"},
		{"cloudevents-batch", "identity", "auto"}, {"cloudevents-batch", "gzip", "string"}, {"cloudevents-batch", "zstd", "base64"},
		{"raw", "identity", "auto"}, {"raw", "gzip", "auto"}, {"raw", "zstd", "auto"},
	} {
		t.Run(f.kind+" "+f.encoding+" "+f.value, func(t *testing.T) {
			got, ds := delivered(t, b, formatted(f.kind, f.encoding, f.value))
			for _, d := range ds {
				if d.ID != "dl_3kq9" || d.WebhookID != "orders-to-billing" || d.GroupID != "kpush.default.orders-to-billing" || d.Attempt != 2 ||
					time.Since(d.Timestamp).Abs() > time.Minute || d.Generation != 42 || d.Topic != "orders" || d.Partition != 3 ||
					d.Ticket.Token != "kat_1" || d.Ticket.Timeout() != 30*time.Second {
					t.Errorf("the delivery is %+v", d)
				}
			}
			var want []receiver.Record
			for i, r := range b.Records {
				w := receiver.Record{Offset: r.Offset, Key: b.Key(i), Value: b.Value(i)}
				w.TimestampType = []receiver.TimestampType{receiver.TimestampNone, receiver.TimestampCreate, receiver.TimestampLogAppend}[r.TimestampType]
				if r.Timestamp >= 0 {
					w.Timestamp = time.UnixMilli(r.Timestamp).UTC()
				}
				if f.kind == "envelope" || f.kind == "ndjson" {
					for j := range b.Headers(i) {
						name, value := b.Header(i, j)
						w.Headers = append(w.Headers, receiver.Header{Name: string(name), Value: value})
					}
				}
				if f.kind == "cloudevents-batch" {
					w.TimestampType = ""
				}
				want = append(want, w)
			}
			for i := range got {
				if (got[i].Event != nil) != (f.kind == "cloudevents-batch") {
					t.Errorf("record %d has the event %s", i, got[i].Event)
				}
				got[i].Event = nil
			}
			if diff := cmp.Diff(want, got, sameBytes); diff != "" {
				t.Errorf("-want +got:\n%.5000s", diff)
			}
		})
	}
}

func TestATestIsNoDeliveryInAnyFormat(t *testing.T) {
	for _, kind := range []string{"envelope", "ndjson", "cloudevents-batch", "raw"} {
		h := &receiver.Handler{Secrets: secrets(t), Deliver: func(_ context.Context, d *receiver.Delivery) (receiver.Ack, error) {
			t.Errorf("%s: delivered %+v", kind, d)
			return receiver.Ack{}, nil
		}}
		c, err := delivery.NewClient(config(t, h, formatted(kind, "gzip", "auto")))
		if err != nil {
			t.Fatal(err)
		}
		if res := c.Sample(t.Context(), "dl_test", time.Now()); res.Verdict != delivery.Acked {
			t.Errorf("%s: %+v", kind, res)
		}
		c.Close()
	}
}

func TestListedHeadersComeInRaw(t *testing.T) {
	b := new(records.Batch)
	b.Append(records.Record{Offset: 1}, nil, []byte(`{"type":"kafka.partitions.lost"}`))
	b.AppendHeader([]byte("Content-Type"), []byte("application/json"))
	b.AppendHeader([]byte("Trace"), []byte("a b%\xff"))
	b.AppendHeader([]byte("other"), []byte("c"))
	got, _ := delivered(t, b, formatted("raw", "identity", "auto"), func(w *webhooks.Webhook) { w.Format.Headers = []string{"Trace"} })
	if want := []receiver.Header{{Name: "trace", Value: []byte("a b%\xff")}}; len(got) != 1 || !cmp.Equal(want, got[0].Headers) {
		t.Errorf("got %+v, want the header %+v", got, want)
	}
}

// A value may look like a request of another kind; it is still a value.
func TestARawValueIsNotMistakenForAnotherRequest(t *testing.T) {
	for _, contentType := range []string{"application/json", "application/x-ndjson", "application/cloudevents-batch+json"} {
		b := new(records.Batch)
		b.Append(records.Record{Offset: 1}, nil, []byte(`{"type":"kafka.partitions.lost","webhook_id":"orders-to-billing","generation":1,"partitions":[]}`))
		b.AppendHeader([]byte("content-type"), []byte(contentType))
		if got, _ := delivered(t, b, formatted("raw", "identity", "auto")); len(got) != 1 || !bytes.Equal(got[0].Value, b.Value(0)) {
			t.Errorf("%s: got %+v", contentType, got)
		}
	}
}

func TestEventsThatPassThroughAreWhole(t *testing.T) {
	b := new(records.Batch)
	b.Append(records.Record{Offset: 7, Timestamp: 5}, []byte("k"), []byte(`{"total":3}`))
	for _, h := range [][2]string{{"content-type", "application/json"}, {"ce_specversion", "1.0"}, {"ce_id", "a"}, {"ce_source", "/s"}, {"ce_type", "t"}, {"ce_tenant", "x"}} {
		b.AppendHeader([]byte(h[0]), []byte(h[1]))
	}
	got, _ := delivered(t, b, formatted("cloudevents-batch", "gzip", "auto"))
	if len(got) != 1 || got[0].Offset != 7 || string(got[0].Value) != `{"total":3}` {
		t.Fatalf("got %+v", got)
	}
	var e event.Event
	if err := json.Unmarshal(got[0].Event, &e); err != nil || e.Validate() != nil || e.ID() != "a" || e.Extensions()["tenant"] != "x" {
		t.Errorf("the event is %s, %v", e, err)
	}
}

// TestOddEventsAreRead: whatever a producer writes that is CloudEvents, and so passes
// through, is read; to refuse it would be to be sent it for ever.
func TestOddEventsAreRead(t *testing.T) {
	const structured = `{"specversion":"1.0","id":"a","source":"/s","type":"t",`
	for _, test := range []struct {
		contentType, value string
		key, want          string
	}{
		{"application/json ; charset=utf-8", `{"total":3}`, "k", `{"total":3}`},
		{"application/cloudevents+json", structured + `"partitionkey":7,"data":{"total":3}}`, "7", `{"total":3}`},
		{"application/cloudevents+json", structured + `"partitionkey":true,"data":1}`, "true", `1`},
		{"application/cloudevents+json", structured + `"partitionkeybase64":"no base64","data":1}`, "", `1`},
		{"application/cloudevents+json", structured + `"partitionkeybase64":7,"data":1}`, "", `1`},
	} {
		b := new(records.Batch)
		b.Append(records.Record{Offset: 7, Timestamp: 5}, []byte("k"), []byte(test.value))
		b.AppendHeader([]byte("content-type"), []byte(test.contentType))
		got, _ := delivered(t, b, formatted("cloudevents-batch", "identity", "auto"))
		if len(got) != 1 || string(got[0].Value) != test.want || string(got[0].Key) != test.key {
			t.Errorf("%s of %s: got %+v", test.value, test.contentType, got)
		}
	}
}

// post signs a body and sends it with more of a header.
func post(t *testing.T, h *receiver.Handler, body []byte, header map[string]string) (status int, reported error) {
	t.Helper()
	h.Secrets = receiver.Unsigned()
	h.Report = func(_ *http.Request, _ int, err error) { reported = err }
	r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/", bytes.NewReader(body))
	for name, value := range header {
		r.Header.Set(name, value)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Code, reported
}

func gzipOf(body []byte) []byte {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, _ = w.Write(body)
	_ = w.Close()
	return b.Bytes()
}

func TestNoMoreIsUnpackedThanWouldBeRead(t *testing.T) {
	bomb := gzipOf(make([]byte, 64<<20))
	if len(bomb) > 100_000 {
		t.Fatalf("the bomb has %d bytes", len(bomb))
	}
	h := &receiver.Handler{MaxBody: 1 << 20}
	var status int
	bytesPerRun := testing.Benchmark(func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			status, _ = post(t, h, bomb, map[string]string{"Content-Encoding": "gzip"})
		}
	}).AllocedBytesPerOp()
	if status != http.StatusRequestEntityTooLarge || bytesPerRun > 16<<20 {
		t.Errorf("status %d with %d bytes allocated, want 413 and far fewer than there are", status, bytesPerRun)
	}
}

func TestWhatCannotBeUnpackedIsRefused(t *testing.T) {
	panics := &receiver.Handler{Decompress: func(string, io.Reader) (io.ReadCloser, error) { panic("no") }}
	for claim, test := range map[string]struct {
		h        *receiver.Handler
		encoding string
		body     []byte
		want     int
	}{
		"not gzip":                    {&receiver.Handler{}, "gzip", []byte("{}"), 400},
		"cut short":                   {&receiver.Handler{}, "gzip", gzipOf([]byte("{}"))[:20], 400},
		"an unknown encoding":         {&receiver.Handler{}, "zstd", []byte("{}"), 415},
		"two of them":                 {&receiver.Handler{}, "gzip, gzip", gzipOf(gzipOf([]byte("{}"))), 415},
		"not zstd":                    {&receiver.Handler{Decompress: unzstd}, "zstd", []byte("{}"), 400},
		"the hook panics":             {panics, "zstd", []byte("{}"), 400},
		"unpacks, and is no envelope": {&receiver.Handler{}, "gzip", gzipOf([]byte("{}")), 400},
	} {
		if got, err := post(t, test.h, test.body, map[string]string{"Content-Encoding": test.encoding}); got != test.want || err == nil {
			t.Errorf("%s: status %d (%v), want %d", claim, got, err, test.want)
		}
	}
}

func TestRequestsThatDoNotFitTogetherAreRefused(t *testing.T) {
	line := `{"offset":5,"timestamp":1,"timestamp_type":"create","key":null,"value":1,"headers":[]}` + "\n"
	head := map[string]string{
		"Content-Type": "application/x-ndjson", "Webhook-Id": "dl_1", "Webhook-Timestamp": "1790000000", "Kpush-Webhook": "w", "Kpush-Group": "g",
		"Kpush-Topic": "t", "Kpush-Partition": "3", "Kpush-Generation": "1", "Kpush-First-Offset": "5", "Kpush-Last-Offset": "5",
		"Kpush-Record-Count": "1", "Kpush-Attempt": "1", "Kpush-Ack-Token": "kat", "Kpush-Ack-Timeout-Ms": "30000",
	}
	h := &receiver.Handler{Deliver: func(context.Context, *receiver.Delivery) (receiver.Ack, error) { return receiver.Ack{}, nil }}
	if status, err := post(t, h, []byte(line), head); status != 200 {
		t.Fatalf("status %d: %v", status, err)
	}
	for claim, test := range map[string]struct{ name, value, body string }{
		"more lines than told":      {"", "", line + line},
		"none":                      {"", "", ""},
		"a line that is none":       {"", "", "{}\n"},
		"a line not in utf-8":       {"", "", "\xff\n"},
		"another offset":            {"Kpush-First-Offset", "4", line},
		"no token":                  {"Kpush-Ack-Token", "", line},
		"no partition":              {"Kpush-Partition", "", line},
		"a partition that is none":  {"Kpush-Partition", "-1", line},
		"a generation out of range": {"Kpush-Generation", "4294967296", line},
		"attempt 0":                 {"Kpush-Attempt", "0", line},
		"events that are none":      {"Content-Type", "application/cloudevents-batch+json", line},
		"events without an offset":  {"Content-Type", "application/cloudevents-batch+json", `[{"id":"1"}]`},
		"raw of another offset":     {"Kpush-Offset", "6", line},
		"an envelope that is none":  {"Content-Type", "application/json", line},
	} {
		header := map[string]string{}
		for name, value := range head {
			header[name] = value
		}
		if test.name != "" {
			header[test.name] = test.value
		}
		if status, err := post(t, h, []byte(test.body), header); status != 400 || err == nil {
			t.Errorf("%s: status %d (%v), want 400", claim, status, err)
		}
	}
}

// FuzzParseRequest: whatever comes, it is read or refused.
func FuzzParseRequest(f *testing.F) {
	for _, contentType := range []string{"application/x-ndjson", "application/cloudevents-batch+json", "image/png"} {
		f.Add(contentType, []byte(`[{"kafkaoffset":"5","data":1}]`), "5", true)
		f.Add(contentType, []byte(`{"offset":5,"timestamp":1,"value":1}`), "", false)
	}
	f.Fuzz(func(t *testing.T, contentType string, body []byte, offset string, text bool) {
		h := http.Header{
			"Content-Type": {contentType}, "Webhook-Id": {"dl_1"}, "Webhook-Timestamp": {"1790000000"}, "Kpush-Webhook": {"w"}, "Kpush-Group": {"g"},
			"Kpush-Topic": {"t"}, "Kpush-Partition": {"3"}, "Kpush-Generation": {"1"}, "Kpush-First-Offset": {"5"}, "Kpush-Last-Offset": {"5"},
			"Kpush-Record-Count": {"1"}, "Kpush-Attempt": {"1"}, "Kpush-Ack-Token": {"kat"}, "Kpush-Ack-Timeout-Ms": {"30000"},
		}
		if offset != "" {
			h["Kpush-Offset"], h["Kpush-Timestamp"], h["Kpush-Timestamp-Type"] = []string{offset}, []string{"1"}, []string{"create"}
		}
		d, err := receiver.ParseRequest(h, body, text)
		if err == nil && (len(d.Records) == 0 || len(d.Records) != d.RecordCount) {
			t.Errorf("a delivery of %d records says %d", len(d.Records), d.RecordCount)
		}
		if err != nil && !strings.Contains(err.Error(), "the body") {
			t.Errorf("the error is %v", err)
		}
	})
}
