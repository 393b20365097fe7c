package delivery

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"github.com/kpush/kpush/internal/records"
	"github.com/kpush/kpush/webhooks"
)

// inFormat is a webhook's format, by the type and edits of it.
func inFormat(kind string, edits ...func(*webhooks.Format)) func(*webhooks.Webhook) {
	return func(w *webhooks.Webhook) {
		w.Format.Type = kind
		if kind == webhooks.FormatRaw {
			w.Batch.MaxRecords = 1
		}
		for _, edit := range edits {
			edit(&w.Format)
		}
	}
}

// allFormats are the types, and how many records one delivery may have.
var allFormats = map[string]int{
	webhooks.FormatEnvelope: 100, webhooks.FormatNDJSON: 100, webhooks.FormatCloudEvents: 100, webhooks.FormatRaw: 1,
}

// sent delivers records [from,to) of b once, over a socket.
func sent(t testing.TB, b *records.Batch, from, to int, edits ...func(*webhooks.Webhook)) received {
	t.Helper()
	url, requests := recording(t)
	c := testClient(t, url, edits...)
	m := c.Encode("dl_3kq9", "orders", 3, b, from, to)
	defer m.Free()
	expect(t, c.Send(t.Context(), m, testAttempt(1)), Acked, 200, "")
	return <-requests
}

// oddRecords are what keys, values and headers can be and what they are mistaken for.
func oddRecords() *records.Batch {
	odd := [][]byte{
		nil, {}, []byte("null"), []byte(" null "), []byte(`{"a":1}`), []byte("{\n \"a\": 1\r\n}"), []byte(`"text"`), []byte("text"), []byte("1"),
		[]byte("ünï ✓"), []byte("\xff\x00"), []byte(" key "), []byte("a\r\nx-injected: 1"), []byte(strings.Repeat("x", 3000)), []byte(`{"id":"\u0000"}`),
	}
	b := new(records.Batch)
	for i, value := range odd {
		r := records.Record{Offset: int64(1200 + 2*i), Timestamp: 1790000000000 + int64(i), TimestampType: records.TimestampType(i % 3)}
		b.Append(r, odd[(i+4)%len(odd)], value)
		for j := range i % 3 {
			b.AppendHeader(odd[(i+j+1)%len(odd)], odd[(i+2*j)%len(odd)])
		}
	}
	b.Append(records.Record{Offset: 5000, Timestamp: -1}, nil, nil)
	return b
}

// readLines reads format ndjson.
func readLines(t testing.TB, body []byte) []envelopeRecord {
	t.Helper()
	if !bytes.HasSuffix(body, []byte("\n")) {
		t.Fatalf("the body does not end with a line break: %.200q", body)
	}
	var rs []envelopeRecord
	for line := range bytes.Lines(body) {
		var r envelopeRecord
		d := json.NewDecoder(bytes.NewReader(line))
		d.DisallowUnknownFields()
		if err := d.Decode(&r); err != nil {
			t.Fatalf("a line is no record: %v\n%.500s", err, line)
		}
		rs = append(rs, r)
	}
	return rs
}

func TestLinesAreTheEnvelopesRecords(t *testing.T) {
	b := oddRecords()
	for _, value := range []string{"auto", "string", "base64"} {
		edit := inFormat(webhooks.FormatNDJSON, func(f *webhooks.Format) { f.Value = value })
		r := sent(t, b, 0, b.Len(), edit)
		if got := r.header.Get("Content-Type"); got != "application/x-ndjson" {
			t.Errorf("the content type is %q", got)
		}
		got := readLines(t, r.body)
		if len(got) != b.Len() {
			t.Fatalf("%d lines, want %d", len(got), b.Len())
		}
		checkRecords(t, webhooks.Format{Value: value}, got, b, 0)
	}
	got := string(sent(t, b, 5, 6, inFormat(webhooks.FormatNDJSON)).body)
	want := `{"offset":1210,"timestamp":1790000000005,"timestamp_type":"log_append","key":"ünï ✓","value_base64":"ewogImEiOiAxDQp9",` +
		`"headers":[{"name":"\"text\"","value":"{\n \"a\": 1\r\n}"},{"name":"text","value":"text"}]}` + "\n"
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// Headers of the delivery are the same in every format; the body is signed as it is
// sent, whatever is done to it.
func TestEveryFormatAndEncoding(t *testing.T) {
	reference, err := standardwebhooks.NewWebhook("whsec_" + base64.StdEncoding.EncodeToString(testSecret))
	if err != nil {
		t.Fatal(err)
	}
	for kind, n := range allFormats {
		for _, encoding := range []string{webhooks.EncodingIdentity, webhooks.EncodingGzip, webhooks.EncodingZstd} {
			t.Run(kind+" "+encoding, func(t *testing.T) {
				url, requests := recording(t)
				c := testClient(t, url, inFormat(kind, func(f *webhooks.Format) { f.ContentEncoding = encoding }))
				plain := testClient(t, url, inFormat(kind))
				b := batchOf(100, 1000, true)
				m, same := c.Encode("dl_3kq9", "orders", 3, b, 0, n), plain.Encode("dl_3kq9", "orders", 3, b, 0, n)
				defer m.Free()
				defer same.Free()
				for attempt := range 3 {
					a := testAttempt(attempt + 1)
					expect(t, c.Send(t.Context(), m, a), Acked, 200, "")
					r := <-requests
					if err := reference.Verify(r.body, r.header); err != nil {
						t.Error(err)
					}
					for name, want := range map[string]string{
						"Webhook-Id": "dl_3kq9", "Kpush-Topic": "orders", "Kpush-Partition": "3", "Kpush-Generation": "42",
						"Kpush-First-Offset": "1000000", "Kpush-Last-Offset": strconv.Itoa(1000000 + n - 1), "Kpush-Record-Count": strconv.Itoa(n),
						"Kpush-Attempt": strconv.Itoa(attempt + 1), "Kpush-Ack-Token": "kat_token", "Kpush-Ack-Timeout-Ms": "30000",
						"Accept-Encoding": "identity", "Content-Length": strconv.Itoa(len(r.body)),
					} {
						if got := r.header[name]; len(got) != 1 || got[0] != want {
							t.Errorf("%s is %q, want %q", name, got, want)
						}
					}
					wantEncoding := []string{encoding}
					if encoding == webhooks.EncodingIdentity {
						wantEncoding = nil
					}
					if diff := cmp.Diff(wantEncoding, r.header["Content-Encoding"]); diff != "" {
						t.Errorf("content-encoding: %s", diff)
					}
					if want := same.body(a); !bytes.Equal(unpack(t, encoding, r.body), want) {
						t.Errorf("attempt %d unpacks to something else than what goes unpacked", attempt+1)
					} else if encoding != webhooks.EncodingIdentity && len(r.body) >= len(want) {
						t.Errorf("%d bytes are %d when packed", len(want), len(r.body))
					}
				}
			})
		}
	}
}

// A body that no attempt changes is compressed once.
func TestBodiesAreCompressedOnceWhereTheyMay(t *testing.T) {
	for kind, n := range allFormats {
		c := testClient(t, "http://localhost", inFormat(kind, func(f *webhooks.Format) { f.ContentEncoding = webhooks.EncodingGzip }))
		calls, pack := 0, c.pack
		c.pack = func(dst, body []byte) []byte { calls++; return pack(dst, body) }
		for range 2 { // a message that is used again begins anew
			m := c.Encode("dl_1", "orders", 3, batchOf(n, 100, true), 0, n)
			for attempt := range 3 {
				m.body(testAttempt(attempt + 1))
			}
			m.Free()
		}
		want := 2
		if kind == webhooks.FormatEnvelope {
			want = 6
		}
		if calls != want {
			t.Errorf("%s: three attempts of two deliveries were compressed %d times, want %d", kind, calls, want)
		}
	}
}

func unpack(t testing.TB, encoding string, body []byte) []byte {
	t.Helper()
	var r io.Reader = bytes.NewReader(body)
	var err error
	switch encoding {
	case webhooks.EncodingGzip:
		r, err = gzip.NewReader(r)
	case webhooks.EncodingZstd:
		// RFC 9659: what receivers need not give more memory for.
		r, err = zstd.NewReader(r, zstd.WithDecoderMaxWindow(8<<20), zstd.WithDecoderConcurrency(1))
	}
	if err != nil {
		t.Fatal(err)
	}
	plain, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return plain
}

// After a 413 and after an ack of the head a part of the batch is laid out anew.
func TestEveryFormatTakesAnyPartOfABatch(t *testing.T) {
	b := oddRecords()
	for _, part := range [][2]int{{0, b.Len()}, {0, 1}, {b.Len() - 1, b.Len()}, {3, 9}} {
		checkRecords(t, webhooks.Format{}, readLines(t, sent(t, b, part[0], part[1], inFormat(webhooks.FormatNDJSON)).body), b, part[0])
		checkEvents(t, sent(t, b, part[0], part[1], inFormat(webhooks.FormatCloudEvents)).body, b, part[0], part[1])
	}
}

func TestNewClientRefusesFormatsThatThereAreNot(t *testing.T) {
	for claim, edit := range map[string]func(*webhooks.Webhook){
		"another type":               inFormat("xml"),
		"another encoding":           inFormat(webhooks.FormatNDJSON, func(f *webhooks.Format) { f.ContentEncoding = "br" }),
		"raw for more than a record": func(w *webhooks.Webhook) { w.Format.Type = webhooks.FormatRaw },
	} {
		if _, err := NewClient(testConfig(testWebhook("http://localhost", edit))); err == nil {
			t.Errorf("%s is accepted", claim)
		}
	}
}

// FuzzFormats delivers records of any bytes, in all formats but the envelope, and reads
// exactly them back.
func FuzzFormats(f *testing.F) {
	f.Add([]byte("key"), []byte(`{"a":1}`), []byte("content-type"), []byte("application/json"), uint8(0))
	f.Add([]byte("\xff"), []byte("null"), []byte("\x00\xff"), []byte(`"\`), uint8(7))
	f.Add([]byte(""), []byte("{\n}"), []byte("ce_id"), []byte("1"), uint8(0xff))
	f.Add([]byte("k"), []byte(`{"specversion":"1.0","id":"1","source":"/a","type":"t","data":{"b":[1]}}`), []byte("content-type"), []byte("application/cloudevents+json"), uint8(0))
	f.Fuzz(func(t *testing.T, key, value, name, headerValue []byte, choice uint8) {
		format := webhooks.Default().Format
		format.Key, format.Value = []string{"auto", "base64"}[choice&1], []string{"auto", "json", "string", "base64"}[choice>>1&3]
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
		for i := range 2 {
			b.Append(records.Record{Offset: int64(5 + i), Timestamp: 6}, key, value)
			b.AppendHeader(name, headerValue)
		}
		encode := func(kind string, n int) (*Message, []byte) {
			format.Type = kind
			c, err := NewClient(testConfig(testWebhook("http://localhost", func(w *webhooks.Webhook) {
				w.Format = format
				if kind == webhooks.FormatRaw {
					w.Format.Value, w.Format.Headers, w.Batch.MaxRecords = "auto", []string{"x-a", "content-type"}, 1
				}
			})))
			if err != nil {
				t.Fatal(err)
			}
			m := c.Encode("dl_1", "orders", 0, b, 0, n)
			return m, m.body(testAttempt(1))
		}
		m, body := encode(webhooks.FormatNDJSON, 2)
		checkRecords(t, format, readLines(t, body), b, 0)
		m.Free()

		m, body = encode(webhooks.FormatCloudEvents, 2)
		checkEvents(t, body, b, 0, 2)
		m.Free()

		m, body = encode(webhooks.FormatRaw, 1)
		defer m.Free()
		h := http.Header{}
		for _, line := range strings.Split(strings.TrimSuffix(string(m.fields), "\r\n"), "\r\n") {
			name, value, ok := strings.Cut(line, ": ")
			if !ok || !validHeader(header{name, value}) {
				t.Fatalf("%q is no header field", line)
			}
			h.Add(name, value)
		}
		checkRaw(t, received{header: h, body: body}, b, 0)
	})
}
