package delivery

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func offset(n int64) *int64 { return &n }

var inlineAcks = []struct {
	body string
	want *Ack // nil: a plain answer
}{
	{``, nil},
	{`OK`, nil},
	{`{}`, nil},
	{`[]`, nil},
	{`null`, nil},
	{`"ack"`, nil},
	{`["ack",{"ack":{}}]`, nil},
	{`{"status":"ok"}`, nil},
	{`{"Ack":{"outcome":"nack"}}`, nil},
	{`{"acknowledged":true,"result":{"ack":{"outcome":"nack"}}}`, nil},
	{`{"a":1,"a":2}`, nil},
	{`{"back":`, nil},
	{`{"ack":{}}`, &Ack{Outcome: "ack"}},
	{" \r\n{\"ack\" : {} }\n", &Ack{Outcome: "ack"}},
	{`{"\u0061ck":{"outcome":"nack"}}`, &Ack{Outcome: "nack"}},
	{`{"ok":true,"ack":{"outcome":"ack"},"more":[1]}`, &Ack{Outcome: "ack"}},
	{`{"ack":{"up_to_offset":1210}}`, &Ack{Outcome: "ack", UpToOffset: offset(1210)}},
	{`{"ack":{"up_to_offset":0}}`, &Ack{Outcome: "ack", UpToOffset: offset(0)}},
	{`{"ack":{"reason":"fine"}}`, &Ack{Outcome: "ack", Reason: "fine"}},
	{`{"ack":{"outcome":"nack","delay_ms":5000,"reason":"db \u0064own"}}`, &Ack{Outcome: "nack", Delay: 5 * time.Second, Reason: "db down"}},
	{`{"ack":{"outcome":"nack"}}`, &Ack{Outcome: "nack"}},
	{`{"ack":{"outcome":"nack","delay_ms":0}}`, &Ack{Outcome: "nack"}},
	{`{"ack":{"outcome":"nack","delay_ms":9223372036854775807}}`, &Ack{Outcome: "nack", Delay: 24 * time.Hour}},
	{`{"ack":{"outcome":"reject","reason":"bad schema"}}`, &Ack{Outcome: "reject", Reason: "bad schema"}},
	{`{"ack":{"outcome":"partial","failures":[{"offset":7,"action":"retry"},{"offset":3,"action":"dead_letter","reason":"x"}]}}`,
		&Ack{Outcome: "partial", Failures: []AckFailure{{7, "retry", ""}, {3, "dead_letter", "x"}}}},
	{`{"ack":{"outcome":"extend","extend_ms":60000}}`, &Ack{Outcome: "extend", Extend: time.Minute}},
}

var malformedAcks = []string{
	`{"ack":null}`,
	`{"ack":true}`,
	`{"ack":"ack"}`,
	`{"ack":[]}`,
	`{"ack":{}`,
	`{"ack":{}} x`,
	`{"ack":{},"ack":{"outcome":"nack"}}`,
	`{"ack":{"outcome":"ack","outcome":"nack"}}`,
	`{"ack":{"token":"t"}}`,
	`{"ack":{"webhook_id":"orders"}}`,
	`{"ack":{"Outcome":"nack"}}`,
	`{"ack":{"outcome":"maybe"}}`,
	`{"ack":{"outcome":""}}`,
	`{"ack":{"outcome":null}}`,
	`{"ack":{"outcome":1}}`,
	`{"ack":{"outcome":"reject","failures":[{"offset":1,"action":"skip"}]}}`,
	`{"ack":{"outcome":"reject","delay_ms":1}}`,
	`{"ack":{"outcome":"partial"}}`,
	`{"ack":{"outcome":"partial","failures":null}}`,
	`{"ack":{"outcome":"partial","failures":[]}}`,
	`{"ack":{"outcome":"partial","failures":[1]}}`,
	`{"ack":{"outcome":"partial","failures":[{"offset":1}]}}`,
	`{"ack":{"outcome":"partial","failures":[{"action":"skip"}]}}`,
	`{"ack":{"outcome":"partial","failures":[{"offset":-1,"action":"skip"}]}}`,
	`{"ack":{"outcome":"partial","failures":[{"offset":1,"action":"pray"}]}}`,
	`{"ack":{"outcome":"partial","failures":[{"offset":1,"action":"skip","why":"x"}]}}`,
	`{"ack":{"outcome":"partial","failures":[{"offset":1,"action":"skip"},{"offset":1,"action":"retry"}]}}`,
	`{"ack":{"outcome":"partial","failures":[{"offset":1,"action":"skip"}],"up_to_offset":3}}`,
	`{"ack":{"failures":[{"offset":1,"action":"skip"}]}}`,
	`{"ack":{"reason":null}}`,
	`{"ack":{"reason":["x"]}}`,
	`{"ack":{"up_to_offset":null}}`,
	`{"ack":{"up_to_offset":-1}}`,
	`{"ack":{"up_to_offset":1.0}}`,
	`{"ack":{"up_to_offset":1e3}}`,
	`{"ack":{"up_to_offset":"1"}}`,
	`{"ack":{"up_to_offset":9223372036854775808}}`,
	`{"ack":{"outcome":"nack","up_to_offset":1}}`,
	`{"ack":{"outcome":"nack","delay_ms":-1}}`,
	`{"ack":{"outcome":"nack","delay_ms":"5s"}}`,
	`{"ack":{"outcome":"nack","extend_ms":1}}`,
	`{"ack":{"delay_ms":1}}`,
	`{"ack":{"extend_ms":1}}`,
	`{"ack":{"outcome":"extend"}}`,
	`{"ack":{"outcome":"extend","extend_ms":0}}`,
	`{"ack":{"outcome":"extend","extend_ms":1,"delay_ms":1}}`,
	`{"ack":{"outcome":"extend","extend_ms":1,"up_to_offset":1}}`,
}

func TestInlineAck(t *testing.T) {
	for _, test := range inlineAcks {
		got, err := inlineAck([]byte(test.body))
		if err != nil {
			t.Errorf("%s is refused: %v", test.body, err)
		} else if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.body, diff)
		}
	}
}

func TestInlineAckThatDoesNotFit(t *testing.T) {
	deep := `{"ack":` + strings.Repeat("[", 30_000)
	for _, body := range append(malformedAcks, deep) {
		if got, err := inlineAck([]byte(body)); err == nil || got != nil {
			t.Errorf("%.80s is taken for %+v, want an error", body, got)
		}
	}
}

func FuzzInlineAck(f *testing.F) {
	for _, test := range inlineAcks {
		f.Add([]byte(test.body))
	}
	for _, body := range malformedAcks {
		f.Add([]byte(body))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		a, err := inlineAck(body)
		switch {
		case err != nil && a != nil:
			t.Fatalf("%q gives an ack and an error", body)
		case a == nil:
		case !slices.Contains([]string{"ack", "nack", "extend", "reject", "partial"}, a.Outcome):
			t.Fatalf("%q has outcome %q", body, a.Outcome)
		case a.Delay < 0 || a.Extend < 0 || a.UpToOffset != nil && *a.UpToOffset < 0:
			t.Fatalf("%q gives negative numbers: %+v", body, a)
		case a.Outcome == "extend" && a.Extend == 0:
			t.Fatalf("%q extends by nothing", body)
		case (a.Outcome == "partial") != (len(a.Failures) > 0):
			t.Fatalf("%q lists %d failures", body, len(a.Failures))
		}
	})
}
