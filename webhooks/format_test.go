package webhooks

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestFormats(t *testing.T) {
	for claim, test := range map[string]struct {
		fields string
		want   []string // pointers
	}{
		"ndjson with zstd":                       {`"format":{"type":"ndjson","content_encoding":"zstd","value":"string"}`, nil},
		"events":                                 {`"format":{"type":"cloudevents-batch","source":"https://a.example/b?c=d","event_type":"a.b","headers":["Trace-Id"]}`, nil},
		"raw":                                    {`"format":{"type":"raw","key":"base64","headers":["authorization","x_a"]}`, nil},
		"raw with one record":                    {`"format":{"type":"raw"},"batch":{"max_records":1}`, nil},
		"raw with two":                           {`"format":{"type":"raw"},"batch":{"max_records":2}`, []string{"/batch/max_records"}},
		"raw with the default that is not its":   {`"format":{"type":"raw"},"batch":{"max_records":100}`, []string{"/batch/max_records"}},
		"raw with none":                          {`"format":{"type":"raw"},"batch":{"max_records":0}`, []string{"/batch/max_records"}},
		"a way to write raw values":              {`"format":{"type":"raw","value":"base64"}`, []string{"/format/value"}},
		"an unknown type and encoding":           {`"format":{"type":"avro","content_encoding":"br"}`, []string{"/format/type", "/format/content_encoding"}},
		"a source where there are no events":     {`"format":{"source":"/a","event_type":"b"}`, []string{"/format/source", "/format/event_type"}},
		"headers where all go along":             {`"format":{"type":"ndjson","headers":["a"]}`, []string{"/format/headers"}},
		"a source with a fragment":               {`"format":{"type":"cloudevents-batch","source":"/a#b"}`, []string{"/format/source"}},
		"an empty source and type":               {`"format":{"type":"cloudevents-batch","source":"","event_type":""}`, []string{"/format/source", "/format/event_type"}},
		"a source that is none":                  {`"format":{"type":"cloudevents-batch","source":"http://["}`, []string{"/format/source"}},
		"a source with a space":                  {`"format":{"type":"cloudevents-batch","source":"a b"}`, []string{"/format/source"}},
		"a long source":                          {`"format":{"type":"cloudevents-batch","source":"` + strings.Repeat("a", 513) + `"}`, []string{"/format/source"}},
		"a type of two lines":                    {`"format":{"type":"cloudevents-batch","event_type":"a\nb"}`, []string{"/format/event_type"}},
		"a header that no field can be":          {`"format":{"type":"raw","headers":["a b","","a\r\nb","` + strings.Repeat("a", 65) + `"]}`, []string{"/format/headers/0", "/format/headers/1", "/format/headers/2", "/format/headers/3"}},
		"a header in two cases":                  {`"format":{"type":"raw","headers":["a","A"]}`, []string{"/format/headers/1"}},
		"two headers that are one extension":     {`"format":{"type":"cloudevents-batch","headers":["a-b","AB"]}`, []string{"/format/headers/1"}},
		"a header that no extension can be":      {`"format":{"type":"cloudevents-batch","headers":["-"]}`, []string{"/format/headers/0"}},
		"33 headers":                             {`"format":{"type":"raw","headers":[` + strings.Repeat(`"a",`, 32) + `"a"]}`, []string{"/format/headers"}},
		"defaults, given with another type":      {`"format":{"source":"/kafka","event_type":"kafka.record","headers":[]}`, nil},
		"null, which is the default, everywhere": {`"format":{"type":null,"source":null,"event_type":null,"headers":null,"content_encoding":null}`, nil},
	} {
		w, err := Decode([]byte(`{"url":"https://a.example/","topics":["t"],`+test.fields+`}`), "x")
		if diff := cmp.Diff(test.want, pointers(t, err)); diff != "" {
			t.Errorf("%s: complaints (-want +got):\n%s", claim, diff)
		}
		if err == nil && w.Format.Headers == nil {
			t.Errorf("%s: headers are nil, want a list", claim)
		}
		if err == nil && (w.Format.Type == FormatRaw) != (w.Batch.MaxRecords == 1) {
			t.Errorf("%s: batches are of %d records", claim, w.Batch.MaxRecords)
		}
	}
}

func TestTheFormatIsContent(t *testing.T) {
	a, b := valid(), valid()
	b.Format.Type, b.Format.Headers = FormatRaw, []string{"trace"}
	if sameContent(a, b) || !sameContent(b, b.Clone()) {
		t.Error("webhooks are alike that differ in their format, or differ though alike")
	}
}
