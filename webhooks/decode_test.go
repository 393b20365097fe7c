package webhooks

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const minimal = `"url": "https://example.com/hook", "topics": ["orders"]`

func decodeErr(t *testing.T, body, id string) error {
	t.Helper()
	_, err := Decode([]byte(body), id)
	return err
}

// pointers are those of a *ValidationError, nil for no error.
func pointers(t *testing.T, err error) []string {
	t.Helper()
	if err == nil {
		return nil
	}
	v, ok := errors.AsType[*ValidationError](err)
	if !ok {
		t.Fatalf("error is %v, want a *ValidationError", err)
	}
	var all []string
	for _, f := range v.Fields {
		all = append(all, f.Pointer)
	}
	return all
}

func TestDecodeFillsInEveryDefault(t *testing.T) {
	got, err := Decode([]byte("{"+minimal+"}"), "billing")
	if err != nil {
		t.Fatal(err)
	}
	want := Default()
	want.ID, want.URL, want.Topics, want.GroupID = "billing", "https://example.com/hook", []string{"orders"}, "kpush.default.billing"
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestDecodeReadsEveryField(t *testing.T) {
	dead := "orders.dead"
	want := Webhook{
		ID: "orders-to-billing", Tenant: DefaultTenant,
		URL: "http://[2001:db8::1]:8080/a?b=c%20d", Topics: []string{"orders", "x_y.z-1"}, GroupID: "billing:orders",
		Description: "line one\nline two", Labels: map[string]string{"team": "billing", "a/b.c": ""},
		State: Active, Start: "2026-09-22T10:00:00.5+02:00", OffsetReset: ResetLatest,
		IsolationLevel: ReadUncommitted, Ordering: OrderingNone, MaxInFlight: 1000,
		Batch: Batch{MaxRecords: 10_000, MaxBytes: 16 << 20, LingerMs: 60_000},
		Fetch: Fetch{MinBytes: 2, MaxBytes: 3, MaxWaitMs: 4, PrefetchRecords: 5, PrefetchBytes: 1024},
		Format: Format{
			Type: "cloudevents-batch", Key: "base64", Value: "json", ContentEncoding: "zstd", Source: "https://a.example/b", EventType: "a.b",
			Headers: []string{"Trace"},
		},
		Request:     Request{TimeoutMs: 600_000, Headers: map[string]string{"Authorization": "Bearer x", "x-env": ""}},
		Ack:         Ack{Mode: AckExplicit, TimeoutMs: 3_600_000, MaxTimeoutMs: 86_400_000},
		Retry:       Retry{InitialBackoffMs: 1, MaxBackoffMs: 3_600_000, Multiplier: 1.5, MaxAttempts: 7, MaxAgeMs: 86_400_000},
		Limits:      Limits{RecordsPerSecond: 1, RequestsPerSecond: 2, BytesPerSecond: 3},
		OnExhausted: OnExhaustedDeadLetter, OnUndecodable: OnUndecodableSkip, DeadLetter: DeadLetter{Topic: &dead}, Signing: Signing{Schemes: []string{"v1a", "v1"}},
		Lifecycle: &Lifecycle{URL: "https://example.com/lifecycle"}, TLS: TLS{CA: new(testCA(t))}, Filter: new("key == \"a\" && value.total > 5"),
	}
	body, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	got, err := Decode(body, want.ID)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestWhatGetAnsweredCanBePutBack(t *testing.T) {
	reason := "gone"
	stored, err := Decode([]byte("{"+minimal+"}"), "billing")
	if err != nil {
		t.Fatal(err)
	}
	stored.State, stored.StateReason = Disabled, &reason
	stored.CreatedAt = time.Date(2026, 9, 22, 10, 0, 0, 0, time.UTC)
	body, err := json.Marshal(stored)
	if err != nil {
		t.Fatal(err)
	}
	got, err := Decode(body, "billing")
	if err != nil {
		t.Fatal(err)
	}
	if !sameContent(stored, got) {
		t.Errorf("content differs:\n%s", cmp.Diff(stored, got))
	}
	if got.State != Active || got.StateReason != nil || !got.CreatedAt.IsZero() {
		t.Errorf("read-only fields were taken from the body: %+v", got)
	}
}

func TestDecodeGivesAnID(t *testing.T) {
	tests := map[string]struct{ body, path, want string }{
		"the path's":                    {"{" + minimal + "}", "billing", "^billing$"},
		"the body's":                    {`{"id": "billing", ` + minimal + "}", "", "^billing$"},
		"both, alike":                   {`{"id": "billing", ` + minimal + "}", "billing", "^billing$"},
		"neither: wh_ and a ULID":       {"{" + minimal + "}", "", "^wh_[0-9a-hjkmnp-tv-z]{26}$"},
		"null counts as none":           {`{"id": null, ` + minimal + "}", "", "^wh_[0-9a-z]{26}$"},
		"one character":                 {"{" + minimal + "}", "7", "^7$"},
		"63 characters, the most there": {"{" + minimal + "}", strings.Repeat("a", 63), "^a{63}$"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			w, err := Decode([]byte(tt.body), tt.path)
			if err != nil {
				t.Fatal(err)
			}
			if !regexp.MustCompile(tt.want).MatchString(w.ID) {
				t.Errorf("id is %q, want a match of %s", w.ID, tt.want)
			}
			if want := "kpush.default." + w.ID; w.GroupID != want {
				t.Errorf("group id is %q, want %q", w.GroupID, want)
			}
		})
	}
}

func TestNullStandsForTheDefault(t *testing.T) {
	body := `{"labels": null, "batch": null, "retry": {"multiplier": null}, "request": {"headers": null}, "description": null,
		"dead_letter": {"topic": null}, "start": null, "signing": {"enabled": null}, "group_id": null, "lifecycle": null, ` + minimal + "}"
	got, err := Decode([]byte(body), "billing")
	if err != nil {
		t.Fatal(err)
	}
	want, err := Decode([]byte("{"+minimal+"}"), "billing")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestADefaultGivesWayToTheLimitThatWasGiven: who set only the limit, below the
// default of what it limits, was told that a field was wrong which was not sent.
func TestADefaultGivesWayToTheLimitThatWasGiven(t *testing.T) {
	for _, tt := range []struct {
		fields           string
		backoff, timeout int
		want             []string // complaints
	}{
		{`"retry": {"max_backoff_ms": 100}`, 100, 30_000, nil},
		{`"retry": {"max_backoff_ms": 100, "initial_backoff_ms": null}`, 100, 30_000, nil},
		{`"retry": {"max_backoff_ms": 600}`, 500, 30_000, nil},
		{`"retry": {"max_backoff_ms": 100, "initial_backoff_ms": 100}`, 100, 30_000, nil},
		{`"retry": {"max_backoff_ms": 100, "initial_backoff_ms": 500}`, 0, 0, []string{"/retry/initial_backoff_ms"}},
		{`"retry": {"initial_backoff_ms": 60001}`, 0, 0, []string{"/retry/initial_backoff_ms"}},
		{`"retry": {"max_backoff_ms": 0}`, 0, 0, []string{"/retry/max_backoff_ms"}},
		{`"retry": {"max_backoff_ms": "1s"}`, 0, 0, []string{"/retry/max_backoff_ms"}},
		{`"retry": {"max_backoff_ms": 0, "initial_backoff_ms": 0}`, 0, 0, []string{"/retry/initial_backoff_ms", "/retry/max_backoff_ms"}},
		{`"ack": {"max_timeout_ms": 20000}`, 500, 20_000, nil},
		{`"ack": {"max_timeout_ms": 20000, "timeout_ms": 30000}`, 0, 0, []string{"/ack/timeout_ms"}},
		{`"ack": {"max_timeout_ms": 99}`, 0, 0, []string{"/ack/max_timeout_ms"}},
	} {
		w, err := Decode([]byte("{"+tt.fields+", "+minimal+"}"), "billing")
		if diff := cmp.Diff(tt.want, pointers(t, err)); diff != "" {
			t.Errorf("%s: complaints (-want +got):\n%s", tt.fields, diff)
		}
		if w.Retry.InitialBackoffMs != tt.backoff || w.Ack.TimeoutMs != tt.timeout {
			t.Errorf("%s: initial_backoff_ms is %d and timeout_ms %d, want %d and %d", tt.fields, w.Retry.InitialBackoffMs, w.Ack.TimeoutMs, tt.backoff, tt.timeout)
		}
	}
}

func TestWhatIsNotAnObjectIsMalformed(t *testing.T) {
	tests := map[string]string{
		"nothing":               "",
		"spaces":                " \n",
		"null":                  "null",
		"an array":              "[]",
		"a string":              `"{}"`,
		"cut short":             "{" + minimal,
		"a comma too many":      "{" + minimal + ",}",
		"data after its end":    "{" + minimal + "} {}",
		"a stray brace":         "{" + minimal + "}}",
		"NaN":                   `{"max_in_flight": NaN, ` + minimal + "}",
		"single quotes":         "{'url': 'https://example.com/'}",
		"not UTF-8":             "{\"url\": \"https://example.com/\xff\"}",
		"a byte order mark":     "\ufeff{" + minimal + "}",
		"10^5 nested arrays":    strings.Repeat("[", 100_000) + strings.Repeat("]", 100_000),
		"10^5 nested in labels": `{"labels": ` + strings.Repeat("[", 100_000) + strings.Repeat("]", 100_000) + "}",
		"10^6 open braces":      strings.Repeat(`{"a":`, 1_000_000),
	}
	for name, body := range tests {
		t.Run(name, func(t *testing.T) {
			if err := decodeErr(t, body, ""); !errors.Is(err, ErrMalformed) {
				t.Errorf("error is %v, want ErrMalformed", err)
			}
		})
	}
}

func TestDecodeTellsWhatIsWrongByPointer(t *testing.T) {
	nested := strings.Repeat("[", 5000) + strings.Repeat("]", 5000)
	tests := map[string]struct {
		fields string
		want   []string
	}{
		"an unknown field":                     {`"colour": 1`, []string{"/colour"}},
		"an unknown field of an object":        {`"batch": {"max_record": 1}`, []string{"/batch/max_record"}},
		"a name with / and ~":                  {`"a/b~c": 1`, []string{"/a~1b~0c"}},
		"a name too long to repeat":            {`"` + strings.Repeat("x", 1<<16) + `": 1`, []string{""}},
		"a field in another case":              {`"URL": "https://example.com/"`, []string{"/URL"}},
		"a field given twice":                  {`"start": "latest", "start": "latest"`, []string{"/start"}},
		"a field given twice, deep":            {`"batch": {"max_records": 1, "max_records": 1}`, []string{"/batch/max_records"}},
		"a label given twice":                  {`"labels": {"a": "1", "a": "1"}`, []string{"/labels/a"}},
		"a secret":                             {`"secret": "whsec_AAAA"`, []string{"/secret"}},
		"a string for a number":                {`"max_in_flight": "1"`, []string{"/max_in_flight"}},
		"a number for a string":                {`"description": 1`, []string{"/description"}},
		"a string for a flag":                  {`"signing": {"enabled": "yes"}`, []string{"/signing/enabled"}},
		"an unknown scheme":                    {`"signing": {"schemes": ["v1", "v2"]}`, []string{"/signing/schemes/1"}},
		"a scheme twice":                       {`"signing": {"schemes": ["v1", "v1a", "v1"]}`, []string{"/signing/schemes/2"}},
		"no scheme":                            {`"signing": {"schemes": []}`, []string{"/signing/schemes"}},
		"a string for the schemes":             {`"signing": {"schemes": "v1"}`, []string{"/signing/schemes"}},
		"an array for an object":               {`"batch": []`, []string{"/batch"}},
		"an object for an array":               {`"topics": {}`, []string{"/topics"}},
		"a number among the topics":            {`"topics": ["orders", 2]`, []string{"/topics/1"}},
		"null among the topics":                {`"topics": ["orders", null]`, []string{"/topics/1"}},
		"null for a label":                     {`"labels": {"a": null}`, []string{"/labels/a"}},
		"a fraction":                           {`"max_in_flight": 1.5`, []string{"/max_in_flight"}},
		"a fraction of zero":                   {`"max_in_flight": 1.0`, []string{"/max_in_flight"}},
		"an exponent":                          {`"max_in_flight": 1e2`, []string{"/max_in_flight"}},
		"a negative number":                    {`"max_in_flight": -1`, []string{"/max_in_flight"}},
		"2^63":                                 {`"retry": {"max_age_ms": 9223372036854775808}`, []string{"/retry/max_age_ms"}},
		"2^64 + 1, which wraps round to 1":     {`"max_in_flight": 18446744073709551617`, []string{"/max_in_flight"}},
		"a number without end":                 {`"retry": {"multiplier": 1e999}`, []string{"/retry/multiplier"}},
		"a string for the lifecycle":           {`"lifecycle": "https://example.com/"`, []string{"/lifecycle", "/lifecycle/url"}},
		"a lifecycle without its url":          {`"lifecycle": {}`, []string{"/lifecycle/url"}},
		"null for the lifecycle's url":         {`"lifecycle": {"url": null}`, []string{"/lifecycle/url"}},
		"a number for the lifecycle's url":     {`"lifecycle": {"url": 1}`, []string{"/lifecycle/url"}},
		"an unknown field of the lifecycle":    {`"lifecycle": {"url": "http://a", "events": []}`, []string{"/lifecycle/events"}},
		"a lifecycle url twice":                {`"lifecycle": {"url": "http://a", "url": "http://b"}`, []string{"/lifecycle/url"}},
		"arrays in a field, deeper than known": {`"labels": ` + nested, []string{"/labels/0/0/0/0/0/0/0", "/labels"}},
		"everything that is wrong at once": {
			`"max_in_flight": 0, "batch": {"max_records": "x", "linger_ms": -1}, "colour": 1, "start": "now"`,
			[]string{"/batch/max_records", "/colour", "/start", "/max_in_flight", "/batch/linger_ms"},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			base := minimal
			if strings.Contains(tt.fields, `"topics"`) {
				base = `"url": "https://example.com/hook"`
			}
			got := pointers(t, decodeErr(t, "{"+tt.fields+", "+base+"}", ""))
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("pointers (-want +got):\n%s", diff)
			}
		})
	}
}

func TestURLAndTopicsAreRequired(t *testing.T) {
	want := []string{"/url", "/topics"}
	for _, body := range []string{"{}", `{"url": null, "topics": null}`, `{"url": "", "topics": []}`} {
		if got := pointers(t, decodeErr(t, body, "")); !cmp.Equal(got, want) {
			t.Errorf("%s: complaints about %q, want %q", body, got, want)
		}
	}
}

func TestTheIDInTheBodyMustBeThePaths(t *testing.T) {
	got := pointers(t, decodeErr(t, `{"id": "b", `+minimal+"}", "a"))
	if want := []string{"/id"}; !cmp.Equal(got, want) {
		t.Errorf("complaints about %q, want %q", got, want)
	}
}

// TestAnEmptyIDIsNone: it was taken for no id at all and replaced by a new one. From
// a variable that is empty it made one more webhook with each call, or each start.
func TestAnEmptyIDIsNone(t *testing.T) {
	for _, path := range []string{"", "a"} {
		got := pointers(t, decodeErr(t, `{"id": "", `+minimal+"}", path))
		if want := []string{"/id"}; !cmp.Equal(got, want) {
			t.Errorf("with %q in the path: complaints about %q, want %q", path, got, want)
		}
	}
}

func TestComplaintsAreBounded(t *testing.T) {
	var b strings.Builder
	for i := range 10_000 {
		fmt.Fprintf(&b, `"f%d": 1, `, i)
	}
	got := pointers(t, decodeErr(t, "{"+b.String()+minimal+"}", ""))
	if len(got) != maxComplaints {
		t.Errorf("%d complaints, want %d", len(got), maxComplaints)
	}
}

func TestNoComplaintRepeatsTheOffendingValue(t *testing.T) {
	const value = "S3cretValue#\u0001"
	text, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	var body strings.Builder
	var object func(places map[string]any)
	object = func(places map[string]any) {
		body.WriteString("{")
		comma := ""
		for name, place := range places {
			fmt.Fprintf(&body, "%s%q: ", comma, name)
			comma = ", "
			switch p := place.(type) {
			case map[string]any:
				object(p)
			case *[]string:
				fmt.Fprintf(&body, "[%s, %s]", text, text)
			case *map[string]string:
				fmt.Fprintf(&body, `{"x-y": %s}`, text)
			default:
				body.Write(text)
			}
		}
		body.WriteString("}")
	}
	w := Default()
	object(w.binds())

	err = decodeErr(t, body.String(), "")
	if n := len(pointers(t, err)); n < 30 {
		t.Errorf("%d complaints, want one about nearly every field: %v", n, err)
	}
	if strings.Contains(err.Error(), "S3cret") {
		t.Errorf("a complaint repeats the value: %v", err)
	}
}

// FuzzDecode holds Decode to its promises on any bytes: an error of the two
// kinds, or a valid webhook that comes out the same when put in again.
func FuzzDecode(f *testing.F) {
	f.Add([]byte("{"+minimal+"}"), "a")
	f.Add([]byte(`{"id": "b", "labels": {"a": "b"}, "retry": {"multiplier": 1e0}, "dead_letter": {"topic": "d"}, `+minimal+"}"), "")
	f.Add([]byte(`{"url": "http://[::1]:65535/?a#b", "topics": ["^a"], "topics": [[[[[[[[[[{"x": 1}]]]]]]]]]]}`), "")
	f.Add([]byte(`{"lifecycle": {"url": "http://l"}, "url": "http://[::1]/", "topics": ["^orders\.[a-z]{2,3}$"]}`), "x")
	f.Add([]byte(`{"lifecycle": {"url": null}, "dead_letter": {"topic": "a"}, "topics": ["^(a"], "url": "http://u"}`), "x")
	f.Add([]byte(`{"start": "2026-09-22T10:00:00Z", "request": {"headers": {"A": "b", "a": "c", "Host": ""}}}`), "x")
	f.Add([]byte(`{"max_in_flight": 9223372036854775808, "batch": {"max_bytes": -0}, "fetch": null}`), "x")
	f.Fuzz(func(t *testing.T, body []byte, id string) {
		w, err := Decode(body, id)
		if err != nil {
			_, invalid := errors.AsType[*ValidationError](err)
			if invalid == errors.Is(err, ErrMalformed) {
				t.Fatalf("error %v is not one of ErrMalformed and *ValidationError", err)
			}
			return
		}
		if err := w.Validate(); err != nil {
			t.Fatalf("decoded, but not valid: %v", err)
		}
		again, err := json.Marshal(w)
		if err != nil {
			t.Fatalf("encoding: %v", err)
		}
		w2, err := Decode(again, w.ID)
		if err != nil {
			t.Fatalf("decoding what was encoded: %v\n%s", err, again)
		}
		if diff := cmp.Diff(w, w2); diff != "" {
			t.Fatalf("there and back (-first +second):\n%s", diff)
		}
	})
}
