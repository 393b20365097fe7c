package server

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kpush/kpush/groupmanager"
	"github.com/kpush/kpush/server/api"
	"github.com/kpush/kpush/webhooks"
)

// seek is a request to seek.
func seek(query, body string) exchange {
	return exchange{method: "PUT", path: "/v1/webhooks/a/offsets" + query, body: body}
}

// newSeekServer has a webhook a.
func newSeekServer(t *testing.T) (*Server, *fakeGateway) {
	t.Helper()
	s, g := newServer(t)
	exchange{method: "PUT", path: "/v1/webhooks/a", body: orders}.do(t, s)
	return s, g
}

func TestSeekRequests(t *testing.T) {
	at := time.Date(2026, 9, 22, 8, 0, 0, 500_000_000, time.UTC)
	tests := map[string]struct {
		body string
		want groupmanager.SeekRequest
	}{
		"to the beginning":        {`{"to": "earliest"}`, groupmanager.SeekRequest{To: "earliest"}},
		"to the end":              {`{"to": "latest"}`, groupmanager.SeekRequest{To: "latest"}},
		"to a time":               {`{"to": {"time": "2026-09-22T10:00:00.5+02:00"}}`, groupmanager.SeekRequest{Time: &at}},
		"to the oldest time":      {`{"to": {"time": "1970-01-01T00:00:00Z"}}`, groupmanager.SeekRequest{Time: new(time.Unix(0, 0))}},
		"escapes are read":        {`{"\u0074o": "\u0065arliest"}`, groupmanager.SeekRequest{To: "earliest"}},
		"space means nothing":     {"\n{ \"to\" :\t{ \"partitions\":[ {\"topic\": \"t\",\"partition\":0, \"offset\":0} ] } } ", groupmanager.SeekRequest{Partitions: []groupmanager.SeekPartition{{Topic: "t"}}}},
		"to offsets":              {`{"to": {"partitions": [{"topic": "t", "partition": 1, "offset": 5}, {"topic": "u", "partition": 1, "offset": 6}]}}`, groupmanager.SeekRequest{Partitions: []groupmanager.SeekPartition{{Topic: "t", Partition: 1, Offset: 5}, {Topic: "u", Partition: 1, Offset: 6}}}},
		"the largest numbers":     {`{"to": {"partitions": [{"topic": "t", "partition": 2147483647, "offset": 9223372036854775807}]}}`, groupmanager.SeekRequest{Partitions: []groupmanager.SeekPartition{{Topic: "t", Partition: 1<<31 - 1, Offset: 1<<63 - 1}}}},
		"as many as may be named": {partitionsTo(maxSeekPartitions), groupmanager.SeekRequest{Partitions: manyPartitions(maxSeekPartitions)}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			s, g := newSeekServer(t)
			for _, query := range []string{"", "?dry_run=false", "?dry_run=true"} {
				into[api.SeekResult](t, seek(query, tt.body).do(t, s), http.StatusOK)
			}
			dry := tt.want
			dry.DryRun = true
			if diff := cmp.Diff([]groupmanager.SeekRequest{tt.want, tt.want, dry}, g.seeks); diff != "" {
				t.Errorf("what the gateway was asked (-want +got):\n%s", diff)
			}
		})
	}
}

// manyPartitions are n partitions of two topics.
func manyPartitions(n int) []groupmanager.SeekPartition {
	partitions := make([]groupmanager.SeekPartition, n)
	for i := range partitions {
		partitions[i] = groupmanager.SeekPartition{Topic: []string{"orders", "refunds"}[i%2], Partition: int32(i / 2), Offset: int64(i)}
	}
	return partitions
}

// partitionsTo is a body that names n partitions.
func partitionsTo(n int) string {
	var b strings.Builder
	for _, p := range manyPartitions(n) {
		fmt.Fprintf(&b, `,{"topic":%q,"partition":%d,"offset":%d}`, p.Topic, p.Partition, p.Offset)
	}
	return `{"to": {"partitions": [` + strings.TrimPrefix(b.String(), ",") + `]}}`
}

func TestSeekTellsWhatMoved(t *testing.T) {
	tests := map[string]struct {
		query string
		moves []groupmanager.SeekMove
		want  string
	}{
		"all of it": {
			"", []groupmanager.SeekMove{{Topic: "orders", From: new(int64(1250)), To: 0}, {Topic: "orders", Partition: 1, To: 9223372036854775807}},
			`{"data":[{"from":1250,"partition":0,"to":0,"topic":"orders"},{"from":null,"partition":1,"to":9223372036854775807,"topic":"orders"}],"dry_run":false}`,
		},
		"what would": {
			"?dry_run=true", []groupmanager.SeekMove{{Topic: "orders", Partition: 3, From: new(int64(0)), To: 7}},
			`{"data":[{"from":0,"partition":3,"to":7,"topic":"orders"}],"dry_run":true}`,
		},
		"nothing": {"", nil, `{"data":[],"dry_run":false}`},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			s, g := newSeekServer(t)
			g.moves = tt.moves
			data, err := io.ReadAll(seek(tt.query, `{"to": "latest"}`).do(t, s).Body)
			if err != nil {
				t.Fatal(err)
			}
			var got any
			if err := json.Unmarshal(data, &got); err != nil {
				t.Fatal(err)
			}
			var want any
			if err := json.Unmarshal([]byte(tt.want), &want); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("the answer (-want +got):\n%s", diff)
			}
		})
	}
}

func TestBadSeeks(t *testing.T) {
	partition := func(fields string) string { return `{"to": {"partitions": [` + fields + `]}}` }
	const good = `{"topic": "t", "partition": 1, "offset": 5}`
	tests := map[string]struct {
		body    string
		pointer string
	}{
		"nowhere":                            {`{}`, "/to"},
		"to null":                            {`{"to": null}`, "/to"},
		"to a number":                        {`{"to": 7}`, "/to"},
		"to a list":                          {`{"to": ["earliest"]}`, "/to"},
		"to nothing":                         {`{"to": ""}`, "/to"},
		"to a word there is not":             {`{"to": "s3cret"}`, "/to"},
		"to a word in capitals":              {`{"to": "Latest"}`, "/to"},
		"to a time that is no object":        {`{"to": "2026-09-22T10:00:00Z"}`, "/to"},
		"to two places":                      {`{"to": "latest", "to": "earliest"}`, "/to"},
		"a field that is not known":          {`{"to": "latest", "colour": 1}`, "/colour"},
		"dry_run, which is no field":         {`{"to": "latest", "dry_run": true}`, "/dry_run"},
		"to an empty object":                 {`{"to": {}}`, "/to"},
		"to something that is not known":     {`{"to": {"offset": 5}}`, "/to/offset"},
		"to something with an escaped name":  {`{"to": {"a/b~c": 5}}`, "/to/a~1b~0c"},
		"to something with a long name":      {`{"to": {"` + strings.Repeat("x", 1000) + `": 5}}`, "/to"},
		"to a time and partitions":           {`{"to": {"time": "2026-09-22T10:00:00Z", "partitions": [` + good + `]}}`, "/to/partitions"},
		"to two times":                       {`{"to": {"time": "2026-09-22T10:00:00Z", "time": "2026-09-22T10:00:00Z"}}`, "/to/time"},
		"a time that is none":                {`{"to": {"time": "s3cret"}}`, "/to/time"},
		"a time without a zone":              {`{"to": {"time": "2026-09-22T10:00:00"}}`, "/to/time"},
		"a time that is a number":            {`{"to": {"time": 1790000000}}`, "/to/time"},
		"a time before 1970":                 {`{"to": {"time": "1969-12-31T23:59:59Z"}}`, "/to/time"},
		"a time of null":                     {`{"to": {"time": null}}`, "/to/time"},
		"partitions of null":                 {`{"to": {"partitions": null}}`, "/to/partitions"},
		"partitions that are an object":      {`{"to": {"partitions": ` + good + `}}`, "/to/partitions"},
		"no partitions":                      {partition(``), "/to/partitions"},
		"more partitions than may be named":  {partitionsTo(maxSeekPartitions + 1), "/to/partitions"},
		"a great many of nothing":            {partition(strings.Repeat("0,", 500_000) + "0"), "/to/partitions"},
		"partitions far down":                {partition(strings.Repeat("[", 5000) + strings.Repeat("]", 5000)), "/to/partitions/0"},
		"a partition that is a number":       {partition(good + `, 7`), "/to/partitions/1"},
		"a partition of null":                {partition(`null`), "/to/partitions/0"},
		"a partition given twice":            {partition(good + `, {"topic": "u", "partition": 1, "offset": 5}, ` + strings.Replace(good, "5", "6", 1)), "/to/partitions/2"},
		"a partition without a topic":        {partition(`{"partition": 1, "offset": 5}`), "/to/partitions/0/topic"},
		"a partition without a number":       {partition(`{"topic": "t", "offset": 5}`), "/to/partitions/0/partition"},
		"a partition without an offset":      {partition(good + `, {"topic": "t", "partition": 2}`), "/to/partitions/1/offset"},
		"a partition with something else":    {partition(`{"topic": "t", "partition": 1, "offset": 5, "metadata": ""}`), "/to/partitions/0/metadata"},
		"a partition with two offsets":       {partition(`{"topic": "t", "partition": 1, "offset": 5, "offset": 5}`), "/to/partitions/0/offset"},
		"an empty topic":                     {partition(strings.Replace(good, `"t"`, `""`, 1)), "/to/partitions/0/topic"},
		"a topic that is a number":           {partition(strings.Replace(good, `"t"`, `7`, 1)), "/to/partitions/0/topic"},
		"a negative partition":               {partition(strings.Replace(good, "1", "-1", 1)), "/to/partitions/0/partition"},
		"a partition of 2^31":                {partition(strings.Replace(good, "1", "2147483648", 1)), "/to/partitions/0/partition"},
		"a negative offset":                  {partition(strings.Replace(good, "5", "-1", 1)), "/to/partitions/0/offset"},
		"an offset of 2^63":                  {partition(strings.Replace(good, "5", "9223372036854775808", 1)), "/to/partitions/0/offset"},
		"an offset with a fraction":          {partition(strings.Replace(good, "5", "5.0", 1)), "/to/partitions/0/offset"},
		"an offset with an exponent":         {partition(strings.Replace(good, "5", "5e3", 1)), "/to/partitions/0/offset"},
		"an offset in a string":              {partition(strings.Replace(good, "5", `"5"`, 1)), "/to/partitions/0/offset"},
		"an offset that is a word":           {partition(strings.Replace(good, "5", `"latest"`, 1)), "/to/partitions/0/offset"},
		"fields in another case":             {partition(strings.Replace(good, "topic", "Topic", 1)), "/to/partitions/0/Topic"},
		"ten thousand partitions, all wrong": {strings.ReplaceAll(partitionsTo(maxSeekPartitions), `"offset"`, `"s3cret"`), "/to/partitions/0/s3cret"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			s, g := newSeekServer(t)
			p := wantProblem(t, seek("", tt.body).do(t, s), 422, api.ErrorCodeValidationFailed)
			if p.Errors == nil || (*p.Errors)[0].Pointer != tt.pointer || len(*p.Errors) > maxComplaints {
				t.Errorf("errors %v, want the first about %q", p.Errors, tt.pointer)
			}
			if told := fmt.Sprint(p.Detail, p.Errors); tt.pointer != "/to/partitions/0/s3cret" && strings.Contains(told, "s3cret") {
				t.Errorf("the answer repeats the value: %s", told)
			}
			if len(g.seeks) > 0 {
				t.Errorf("the gateway was asked %v", g.seeks)
			}
		})
	}
	s, _ := newSeekServer(t)
	p := wantProblem(t, seek("?dry_run=s3cret", `{"to": "latest"}`).do(t, s), 422, api.ErrorCodeValidationFailed)
	if got := fmt.Sprint(*p.Errors); !strings.Contains(got, "query/dry_run") || strings.Contains(got, "s3cret") {
		t.Errorf("errors %s, want one about query/dry_run", got)
	}
}

func TestSeekRefusals(t *testing.T) {
	s, g := newSeekServer(t)
	missing := exchange{method: "PUT", path: "/v1/webhooks/b/offsets", body: `{"to": "latest"}`}
	wantProblem(t, missing.do(t, s), 404, api.ErrorCodeNotFound)
	stranger := seek("", `{"to": "latest"}`)
	stranger.anonymous = true
	wantProblem(t, stranger.do(t, s), 401, api.ErrorCodeUnauthorized)
	if len(g.seeks) > 0 {
		t.Errorf("the gateway was asked %v", g.seeks)
	}
	g.err = &webhooks.ValidationError{Fields: []webhooks.FieldError{{Pointer: "/to/partitions/0/partition", Detail: "must be a partition of the topic"}}}
	p := wantProblem(t, seek("", partitionsTo(1)).do(t, s), 422, api.ErrorCodeValidationFailed)
	if p.Errors == nil || (*p.Errors)[0].Pointer != "/to/partitions/0/partition" {
		t.Errorf("errors %v, want the gateway's", p.Errors)
	}
	g.err = fmt.Errorf("moving 1 of 2 partitions: %w", webhooks.ErrUnavailable)
	wantProblem(t, seek("", `{"to": "latest"}`).do(t, s), 503, api.ErrorCodeUnavailable)
}

// A seek waits for deliveries under way, which may take as long as a request to a
// receiver does.
func TestSeekHasMoreTimeThanOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, g := newSeekServer(t)
		g.takes = time.Hour
		start := time.Now()
		wantProblem(t, seek("", `{"to": "latest"}`).do(t, s), 503, api.ErrorCodeUnavailable)
		if took, want := time.Since(start), time.Minute; took != want {
			t.Errorf("answered after %v, want %v", took, want)
		}
	})
}

// FuzzDecodeSeek holds the decoder against encoding/json: what it takes has the
// values that are there and says one thing, and nothing makes it panic.
func FuzzDecodeSeek(f *testing.F) {
	for _, seed := range []string{
		`{"to": "earliest"}`, `{"to": {"time": "2026-09-22T10:00:00Z"}}`, `{"to": {}}`, `{"to": []}`, `{"to": null}`,
		`{"to": {"partitions": [{"topic": "t", "partition": 1, "offset": 5}, {"topic": "t", "partition": 2, "offset": 5}]}}`,
		`{"to": {"partitions": [{"topic": "t", "partition": 1, "offset": 5e1}, 7]}}`, `{"to": "latest", "to": "latest"}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		if !json.Valid(body) {
			return // refused before
		}
		r, err := decodeSeek(body)
		if err != nil {
			var refused *invalidError
			if !errors.As(err, &refused) || len(refused.fields) == 0 || len(refused.fields) > maxComplaints {
				t.Fatalf("refused with %v, want complaints", err)
			}
			return
		}
		var word struct{ To string }
		var object struct {
			To struct {
				Time       *time.Time
				Partitions []groupmanager.SeekPartition
			}
		}
		want := groupmanager.SeekRequest{}
		switch {
		case json.Unmarshal(body, &word) == nil:
			want.To = word.To
		case json.Unmarshal(body, &object) == nil:
			want.Time, want.Partitions = object.To.Time, object.To.Partitions
		default:
			t.Fatal("took what encoding/json does not")
		}
		if diff := cmp.Diff(want, r); diff != "" {
			t.Errorf("decoded something else (-want +got):\n%s", diff)
		}
		said := 0
		for _, is := range []bool{r.To != "", r.Time != nil, len(r.Partitions) > 0} {
			if is {
				said++
			}
		}
		if said != 1 {
			t.Errorf("took a seek that says %d things: %+v", said, r)
		}
	})
}
