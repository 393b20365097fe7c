package delivery

import (
	"encoding/base64"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/kpush/kpush/internal/records"
	"github.com/kpush/kpush/webhooks"
)

// rawRecord is what a receiver of format raw reads.
type rawRecord struct {
	offset, timestamp int64
	kind              string
	key, value        []byte
}

func readRaw(t testing.TB, h http.Header, body []byte) (r rawRecord) {
	t.Helper()
	number := func(name string) int64 {
		n, err := strconv.ParseInt(h.Get(name), 10, 64)
		if err != nil {
			t.Errorf("%s is %q", name, h.Get(name))
		}
		return n
	}
	r.offset, r.timestamp, r.kind, r.value = number("Kpush-Offset"), number("Kpush-Timestamp"), h.Get("Kpush-Timestamp-Type"), body
	if h.Get("Kpush-Tombstone") == "true" {
		r.value = nil
	}
	if plain, ok := h["Kpush-Key"]; ok {
		r.key = []byte(plain[0])
	} else if coded, ok := h["Kpush-Key-Base64"]; ok {
		key, err := base64.StdEncoding.DecodeString(coded[0])
		if err != nil {
			t.Error(err)
		}
		r.key = append([]byte{}, key...)
	}
	return r
}

// checkRaw compares what was sent with record i.
func checkRaw(t testing.TB, r received, b *records.Batch, i int) {
	t.Helper()
	got := readRaw(t, r.header, r.body)
	in := b.Records[i]
	if got.offset != in.Offset || got.timestamp != in.Timestamp || got.kind != timestampWord(in.TimestampType) {
		t.Errorf("record %d: %+v, want %+v", i, got, in)
	}
	if !sameBytes(got.key, b.Key(i)) {
		t.Errorf("record %d: key %q, want %q", i, got.key, b.Key(i))
	}
	if !sameBytes(got.value, b.Value(i)) {
		t.Errorf("record %d: value %q, want %q", i, got.value, b.Value(i))
	}
}

func TestRawIsTheValueAsItIs(t *testing.T) {
	b := oddRecords()
	url, requests := recording(t)
	for _, key := range []string{"auto", "base64"} {
		c := testClient(t, url, inFormat(webhooks.FormatRaw, func(f *webhooks.Format) { f.Key = key }))
		for i := range b.Len() {
			m := c.Encode("dl_1", "orders", 3, b, i, i+1)
			expect(t, c.Send(t.Context(), m, testAttempt(1)), Acked, 200, "")
			m.Free()
			r := <-requests
			checkRaw(t, r, b, i)
			if r.header["X-Injected"] != nil {
				t.Errorf("record %d brought a header of its own", i)
			}
			if _, plain := r.header["Kpush-Key"]; plain && key == "base64" {
				t.Errorf("record %d: the key is plain, want base64", i)
			}
		}
	}
}

func TestRawTakesTheRecordsContentTypeIfItIsOne(t *testing.T) {
	for given, want := range map[string]string{
		"application/json":                 "application/json",
		"application/avro; schema=\"a;b\"": "application/avro; schema=\"a;b\"",
		"text/plain;charset=utf-8":         "text/plain;charset=utf-8",
		"":                                 octetStream,
		"json":                             octetStream,
		"text/html, text/plain":            octetStream,
		"text/html\r\nx-injected: 1":       octetStream,
		"text/\xff":                        octetStream,
		"a/" + strings.Repeat("b", 255):    octetStream,
	} {
		b := recordsOf([]byte("v"))
		b.AppendHeader([]byte("Content-Type"), []byte("image/png")) // the last one counts
		b.AppendHeader([]byte("CONTENT-type"), []byte(given))
		if got := sent(t, b, 0, 1, inFormat(webhooks.FormatRaw)).header["Content-Type"]; len(got) != 1 || got[0] != want {
			t.Errorf("%.50q is sent as %q, want %q", given, got, want)
		}
	}
}

// H3: what a record calls its headers is the producer's, who need not be the webhook's
// owner. None of them gets into the request's head but by the list, encoded, and under
// a name of its own.
func TestH3_RecordHeadersStayOutOfTheHead(t *testing.T) {
	b := recordsOf([]byte("v"))
	hostile := []string{
		"Authorization", "authorization", "Host", "host", "Transfer-Encoding", "Content-Length", "Connection", "Content-Encoding",
		"kpush-ack-token", "webhook-signature", "webhook-id", "x-a\r\nAuthorization", "x-a: b\r\nx-b", "x\x00", "", "kpush-header-Authorization",
	}
	for _, name := range hostile {
		b.AppendHeader([]byte(name), []byte("Bearer stolen\r\nx-smuggled: 1\r\n\r\nPOST / HTTP/1.1"))
	}
	b.AppendHeader([]byte("host"), nil)
	for kind := range allFormats {
		plain := sent(t, recordsOf([]byte("v")), 0, 1, inFormat(kind)).header
		r := sent(t, b, 0, 1, inFormat(kind))
		for name, values := range r.header {
			if len(values) != 1 || len(plain[name]) != 1 {
				t.Errorf("%s: %s is %q, and %q without the record's headers", kind, name, values, plain[name])
			}
			if strings.Contains(values[0], "stolen") {
				t.Errorf("%s: %s carries what the record has", kind, name)
			}
		}
	}

	listed := inFormat(webhooks.FormatRaw, func(f *webhooks.Format) {
		f.Headers = []string{"authorization", "Host", "Transfer-Encoding", "kpush-ack-token", "x-a"}
	})
	r := sent(t, b, 0, 1, listed)
	for _, name := range []string{"Authorization", "Transfer-Encoding", "X-Smuggled", "X-A"} {
		if got := r.header[name]; got != nil {
			t.Errorf("%s is %q, want none", name, got)
		}
	}
	if got := r.header["Kpush-Ack-Token"]; len(got) != 1 || got[0] != "kat_token" {
		t.Errorf("kpush-ack-token is %q, want ours alone", got)
	}
	for _, name := range []string{"Authorization", "Host", "Transfer-Encoding", "Kpush-Ack-Token"} {
		got := r.header["Kpush-Header-"+name]
		if len(got) != 1 || got[0] != "Bearer%20stolen%0D%0Ax-smuggled:%201%0D%0A%0D%0APOST%20/%20HTTP/1.1" {
			t.Errorf("kpush-header-%s is %q", name, got)
		}
	}
}

func TestPromotedHeadersComeThrough(t *testing.T) {
	b := recordsOf([]byte("v"))
	values := []string{"plain", "", " spaces ", "100%", `"q"`, "ünï\xff\x00"}
	for _, v := range values {
		b.AppendHeader([]byte("Trace"), []byte(v))
		b.AppendHeader([]byte("trace"), []byte("another"))
	}
	b.AppendHeader([]byte("Trace"), nil)
	r := sent(t, b, 0, 1, inFormat(webhooks.FormatRaw, func(f *webhooks.Format) { f.Headers = []string{"Trace"} }))
	var got []string
	for _, v := range r.header["Kpush-Header-Trace"] {
		text, err := url.PathUnescape(v)
		if err != nil {
			t.Error(err)
		}
		got = append(got, text)
	}
	if diff := cmp.Diff(values, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}
