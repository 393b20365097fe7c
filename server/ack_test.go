package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kpush/kpush/groupmanager"
	"github.com/kpush/kpush/server/api"
	"github.com/kpush/kpush/webhooks"
)

const byFields = `{"webhook_id": "a", "topic": "orders", "partition": 3, "generation": 42, "offset": 1249}`

// answering makes the gateway answer every ack alike.
func answering(a groupmanager.AckAnswer, err error) func(groupmanager.AckRequest) (groupmanager.AckAnswer, error) {
	return func(groupmanager.AckRequest) (groupmanager.AckAnswer, error) { return a, err }
}

func TestAckAnswers(t *testing.T) {
	deadline := time.Date(2026, 9, 22, 10, 1, 0, 0, time.UTC)
	tests := map[string]struct {
		answer groupmanager.AckAnswer
		err    error
		status int
		want   string // whole body; for a problem its code
	}{
		"committed": {
			answer: groupmanager.AckAnswer{Result: "committed", Generation: 42, CommittedOffset: new(int64(1250))},
			status: 200, want: `{"committed_offset":1250,"generation":42,"result":"committed"}`,
		},
		"accepted": {
			answer: groupmanager.AckAnswer{Result: "accepted", Generation: 42},
			status: 202, want: `{"generation":42,"result":"accepted"}`,
		},
		"already committed": {
			answer: groupmanager.AckAnswer{Result: "already_committed", Generation: 42, CommittedOffset: new(int64(1300))},
			status: 200, want: `{"committed_offset":1300,"generation":42,"result":"already_committed"}`,
		},
		"pending gap": {
			answer: groupmanager.AckAnswer{Result: "pending_gap", Generation: 42, BlockedBy: new(int64(1203))},
			status: 200, want: `{"blocked_by_offset":1203,"generation":42,"result":"pending_gap"}`,
		},
		"an offset and generation of zero are told": {
			answer: groupmanager.AckAnswer{Result: "already_committed", CommittedOffset: new(int64(0))},
			status: 200, want: `{"committed_offset":0,"generation":0,"result":"already_committed"}`,
		},
		"the largest offset is exact": {
			answer: groupmanager.AckAnswer{Result: "committed", Generation: 42, CommittedOffset: new(int64(9223372036854775807))},
			status: 200, want: `{"committed_offset":9223372036854775807,"generation":42,"result":"committed"}`,
		},
		"scheduled": {
			answer: groupmanager.AckAnswer{Result: "scheduled", Generation: 42},
			status: 200, want: `{"result":"scheduled"}`,
		},
		"extended": {
			answer: groupmanager.AckAnswer{Result: "extended", Generation: 42, Deadline: &deadline},
			status: 200, want: `{"deadline":"2026-09-22T10:01:00Z","result":"extended"}`,
		},
		"stale":             {err: &groupmanager.StaleError{Current: 43}, status: 409, want: "generation_stale"},
		"conflict":          {err: groupmanager.ErrOutcomeConflict, status: 409, want: "outcome_conflict"},
		"out of range":      {err: groupmanager.ErrOffsetOutOfRange, status: 422, want: "offset_out_of_range"},
		"webhook not found": {err: groupmanager.ErrWebhookNotFound, status: 404, want: "webhook_not_found"},
		"no dead letters": {
			err:    &webhooks.ValidationError{Fields: []webhooks.FieldError{{Pointer: "/failures/0/action", Detail: "must not be dead_letter"}}},
			status: 422, want: "validation_failed",
		},
		"partition not found": {err: groupmanager.ErrPartitionNotFound, status: 404, want: "partition_not_found"},
		"token invalid":       {err: groupmanager.ErrTokenInvalid, status: 401, want: "token_invalid"},
		"no owner":            {err: groupmanager.ErrNoOwner, status: 503, want: "no_owner"},
		"Kafka is away":       {err: webhooks.ErrUnavailable, status: 503, want: "unavailable"},
		"the time is up":      {err: context.DeadlineExceeded, status: 503, want: "unavailable"},
		"a bug":               {err: errors.New("nil map"), status: 500, want: "internal"},
	}
	for name, tt := range tests {
		for _, path := range []string{"/ack", "/v1/ack"} {
			t.Run(name+path, func(t *testing.T) {
				s, g := newServer(t)
				g.ack = answering(tt.answer, tt.err)
				if tt.err != nil {
					g.ack = answering(tt.answer, fmt.Errorf("at 10.1.2.3: %w", tt.err))
				}
				response := exchange{method: "POST", path: path, body: byFields}.do(t, s)
				data, err := io.ReadAll(response.Body)
				if err != nil || response.StatusCode != tt.status {
					t.Fatalf("status %d, %v, want %d: %s", response.StatusCode, err, tt.status, data)
				}
				if tt.err == nil {
					if got := strings.TrimSpace(string(data)); got != tt.want {
						t.Errorf("body\n got %s\nwant %s", got, tt.want)
					}
					return
				}
				var p api.Problem
				if err := json.Unmarshal(data, &p); err != nil || string(p.Code) != tt.want {
					t.Errorf("code %s, %v, want %s", p.Code, err, tt.want)
				}
				if stale := tt.want == "generation_stale"; stale && (p.CurrentGeneration == nil || *p.CurrentGeneration != 43) {
					t.Errorf("current_generation %v, want 43", p.CurrentGeneration)
				}
				if strings.Contains(string(data), "10.1.2.3") {
					t.Errorf("the answer tells what only the log should: %s", data)
				}
			})
		}
	}
}

func TestAckRequests(t *testing.T) {
	fields := groupmanager.AckRequest{Tenant: "default", WebhookID: "a", Topic: "orders", Partition: 3, Generation: 42, Offset: 1249}
	byGroup := fields
	byGroup.WebhookID, byGroup.GroupID = "", "g"
	lowest := fields
	lowest.Offset = -1
	highest := fields
	highest.Offset, highest.Partition, highest.Generation = 9223372036854775807, 2147483647, 2147483647
	tests := map[string]struct {
		body string
		want groupmanager.AckRequest
	}{
		"by fields":                          {byFields, fields},
		"by fields, the outcome said":        {strings.Replace(byFields, "{", `{"outcome": "ack", `, 1), fields},
		"by group":                           {strings.Replace(byFields, `"webhook_id": "a"`, `"group_id": "g"`, 1), byGroup},
		"a negative offset is the gateway's": {strings.Replace(byFields, "1249", "-1", 1), lowest},
		"the largest numbers":                {`{"webhook_id":"a","topic":"orders","partition":2147483647,"generation":2147483647,"offset":9223372036854775807}`, highest},
		"by token":                           {`{"token": "t"}`, groupmanager.AckRequest{Token: "t", Outcome: "ack"}},
		"escapes are read":                   {`{"\u0074oken": "\u0074"}`, groupmanager.AckRequest{Token: "t", Outcome: "ack"}},
		"the head":                           {`{"token": "t", "up_to_offset": 0}`, groupmanager.AckRequest{Token: "t", Outcome: "ack", UpToOffset: new(int64(0))}},
		"nack":                               {`{"token": "t", "outcome": "nack"}`, groupmanager.AckRequest{Token: "t", Outcome: "nack"}},
		"nack with a delay and a reason":     {`{"token": "t", "outcome": "nack", "delay_ms": 5000, "reason": "db down"}`, groupmanager.AckRequest{Token: "t", Outcome: "nack", Delay: 5 * time.Second, Reason: "db down"}},
		"reject":                             {`{"token": "t", "outcome": "reject", "reason": "bad schema"}`, groupmanager.AckRequest{Token: "t", Outcome: "reject", Reason: "bad schema"}},
		"partial": {
			`{"token": "t", "outcome": "partial", "failures": [{"offset": 1207, "action": "dead_letter", "reason": "no total"}, {"offset": 1203, "action": "retry"}]}`,
			groupmanager.AckRequest{Token: "t", Outcome: "partial", Failures: []groupmanager.AckFailure{{Offset: 1207, Action: "dead_letter", Reason: "no total"}, {Offset: 1203, Action: "retry"}}},
		},
		"extend":                              {`{"token": "t", "outcome": "extend", "extend_ms": 60000}`, groupmanager.AckRequest{Token: "t", Outcome: "extend", Extend: time.Minute}},
		"space around the body is no content": {" \r\n\t" + `{"token": "t"}` + "\n ", groupmanager.AckRequest{Token: "t", Outcome: "ack"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			s, g := newServer(t)
			g.ack = answering(groupmanager.AckAnswer{Result: "committed"}, nil)
			exchange{method: "POST", path: "/ack", body: tt.body}.do(t, s)
			exchange{method: "POST", path: "/ack?wait=accept", body: tt.body}.do(t, s)
			accept := tt.want
			accept.WaitAccept = true
			if diff := cmp.Diff([]groupmanager.AckRequest{tt.want, accept}, g.acks); diff != "" {
				t.Errorf("what the gateway was asked (-want +got):\n%s", diff)
			}
		})
	}
}

func TestBadAcks(t *testing.T) {
	with := func(old, new string) string { return strings.Replace(byFields, old, new, 1) }
	tests := map[string]struct {
		body    string
		pointer string
	}{
		"nothing at all":                     {`{}`, "/webhook_id"},
		"no offset":                          {with(`, "offset": 1249`, ""), "/offset"},
		"no topic":                           {with(`"topic": "orders", `, ""), "/topic"},
		"webhook and group":                  {with("{", `{"group_id": "g", `), "/group_id"},
		"an empty topic":                     {with("orders", ""), "/topic"},
		"an offset of 2^63":                  {with("1249", "9223372036854775808"), "/offset"},
		"an offset with a fraction":          {with("1249", "1.0"), "/offset"},
		"an offset with an exponent":         {with("1249", "1e3"), "/offset"},
		"an offset in a string":              {with("1249", `"1249"`), "/offset"},
		"an offset of null":                  {with("1249", "null"), "/offset"},
		"a negative generation":              {with("42", "-1"), "/generation"},
		"a generation of 2^31":               {with("42", "2147483648"), "/generation"},
		"a negative partition":               {with(": 3", ": -3"), "/partition"},
		"a partition of 2^31":                {with(": 3", ": 2147483648"), "/partition"},
		"a topic that is a number":           {with(`"orders"`, "7"), "/topic"},
		"an unknown field":                   {with("{", `{"colour": "red", `), "/colour"},
		"an unknown field in another case":   {with("webhook_id", "Webhook_ID"), "/Webhook_ID"},
		"an unknown field, its name escaped": {with("{", `{"a/b~c": 1, `), "/a~1b~0c"},
		"an unknown field with a long name":  {with("{", `{"`+strings.Repeat("x", 1000)+`": 1, `), ""},
		"a field given twice":                {with("{", `{"offset": 1, `), "/offset"},
		"nack by fields":                     {with("{", `{"outcome": "nack", `), "/outcome"},
		"up_to_offset by fields":             {with("{", `{"up_to_offset": 1, `), "/up_to_offset"},
		"token and fields":                   {with("{", `{"token": "t", `), "/webhook_id"},
		"token and one field":                {`{"token": "t", "generation": 42}`, "/generation"},
		"an empty token":                     {`{"token": ""}`, "/token"},
		"a token that is a number":           {`{"token": 7}`, "/token"},
		"a token of null":                    {`{"token": null}`, "/token"},
		"a token that is a deep array":       {`{"token": ` + strings.Repeat("[", 5000) + strings.Repeat("]", 5000) + `}`, "/token"},
		"a token given twice":                {`{"token": "t", "token": "t"}`, "/token"},
		"a reject with failures":             {`{"token": "t", "outcome": "reject", "failures": [{"offset": 1, "action": "skip"}]}`, "/failures"},
		"a partial ack that lists nothing":   {`{"token": "t", "outcome": "partial", "failures": []}`, "/failures"},
		"a partial ack without a list":       {`{"token": "t", "outcome": "partial"}`, "/failures"},
		"a failure that is none":             {`{"token": "t", "outcome": "partial", "failures": [7]}`, "/failures/0"},
		"a failure without an action":        {`{"token": "t", "outcome": "partial", "failures": [{"offset": 1}]}`, "/failures/0/action"},
		"a failure with an action unknown":   {`{"token": "t", "outcome": "partial", "failures": [{"offset": 1, "action": "pray"}]}`, "/failures/0/action"},
		"a failure without an offset":        {`{"token": "t", "outcome": "partial", "failures": [{"action": "skip"}]}`, "/failures/0/offset"},
		"a failure listed twice":             {`{"token": "t", "outcome": "partial", "failures": [{"offset": 1, "action": "skip"}, {"offset": 1, "action": "retry"}]}`, "/failures/1/offset"},
		"a failure with a field unknown":     {`{"token": "t", "outcome": "partial", "failures": [{"offset": 1, "action": "skip", "why": "x"}]}`, "/failures/0/why"},
		"a reason beside partial":            {`{"token": "t", "outcome": "partial", "failures": [{"offset": 1, "action": "skip"}], "reason": "x"}`, "/reason"},
		"an outcome there is not":            {`{"token": "t", "outcome": "s3cret"}`, "/outcome"},
		"an empty outcome":                   {`{"token": "t", "outcome": ""}`, "/outcome"},
		"a delay with ack":                   {`{"token": "t", "delay_ms": 1}`, "/delay_ms"},
		"up_to_offset with nack":             {`{"token": "t", "outcome": "nack", "up_to_offset": 1}`, "/up_to_offset"},
		"a negative delay":                   {`{"token": "t", "outcome": "nack", "delay_ms": -1}`, "/delay_ms"},
		"a delay of more than a day":         {`{"token": "t", "outcome": "nack", "delay_ms": 86400001}`, "/delay_ms"},
		"extend without extend_ms":           {`{"token": "t", "outcome": "extend"}`, "/extend_ms"},
		"an extension of nothing":            {`{"token": "t", "outcome": "extend", "extend_ms": 0}`, "/extend_ms"},
		"a reason that is too long":          {`{"token": "t", "outcome": "nack", "reason": "` + strings.Repeat("x", 1025) + `"}`, "/reason"},
		"a list beside a token":              {`{"acks": [], "token": "t"}`, "/token"},
		"a list that is an object":           {`{"acks": {}}`, "/acks"},
		"a list of null":                     {`{"acks": null}`, "/acks"},
		"a list given twice":                 {`{"acks": [], "acks": []}`, "/acks"},
		"a list of more than a thousand":     {`{"acks": [` + strings.Repeat(`{"token": "t"},`, 1000) + `{"token": "t"}]}`, "/acks"},
		"a great many fields":                {manyFields(), ""},
		"a list of a great many":             {`{"acks": [` + strings.Repeat(`0,`, 500_000) + `0]}`, "/acks"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			s, g := newServer(t)
			g.ack = answering(groupmanager.AckAnswer{}, errors.New("must not be asked"))
			p := wantProblem(t, exchange{method: "POST", path: "/ack", body: tt.body}.do(t, s), 422, api.ErrorCodeValidationFailed)
			if p.Errors == nil || (*p.Errors)[0].Pointer != tt.pointer {
				t.Errorf("errors %v, want the first about %q", p.Errors, tt.pointer)
			}
			if strings.Contains(fmt.Sprint(p), "s3cret") {
				t.Errorf("the answer repeats the value: %v", p)
			}
			if len(g.acks) > 0 {
				t.Errorf("the gateway was asked %v", g.acks)
			}
		})
	}
	s, _ := newServer(t)
	p := wantProblem(t, exchange{method: "POST", path: "/ack?wait=s3cret", body: byFields}.do(t, s), 422, api.ErrorCodeValidationFailed)
	if got := fmt.Sprint(*p.Errors); !strings.Contains(got, "query/wait") || strings.Contains(got, "s3cret") {
		t.Errorf("errors %s, want one about query/wait", got)
	}
}

// manyFields is an object of a hundred thousand fields, of which none is known.
func manyFields() string {
	var b strings.Builder
	b.WriteString(`{"token": "t"`)
	for i := range 100_000 {
		fmt.Fprintf(&b, `,"%d":1`, i)
	}
	return b.String() + "}"
}

func TestAckCredentials(t *testing.T) {
	const wrong = "Bearer wrong"
	tests := map[string]struct {
		body, bearer string
		status       int
		code         api.ErrorCode
	}{
		"fields with the bearer":              {byFields, "Bearer " + adminToken, 200, ""},
		"fields without a bearer":             {byFields, "", 401, api.ErrorCodeUnauthorized},
		"fields with a wrong bearer":          {byFields, wrong, 401, api.ErrorCodeUnauthorized},
		"a token needs no bearer":             {`{"token": "t"}`, "", 200, ""},
		"a token beside a wrong bearer":       {`{"token": "t"}`, wrong, 200, ""},
		"bad fields tell a stranger nothing":  {`{"offset": "x"}`, "", 401, api.ErrorCodeUnauthorized},
		"a list needs none by itself":         {`{"acks": []}`, "", 200, ""},
		"token and fields are refused anyway": {`{"token": "t", "offset": 1}`, "", 422, api.ErrorCodeValidationFailed},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			s, g := newServer(t)
			g.ack = answering(groupmanager.AckAnswer{Result: "committed"}, nil)
			x := exchange{method: "POST", path: "/ack", body: tt.body, anonymous: true}
			if tt.bearer != "" {
				x.header = map[string]string{"Authorization": tt.bearer}
			}
			response := x.do(t, s)
			if tt.code != "" {
				wantProblem(t, response, tt.status, tt.code)
			} else if response.StatusCode != tt.status {
				t.Errorf("status %d, want %d", response.StatusCode, tt.status)
			}
		})
	}
}

func TestAckList(t *testing.T) {
	s, g := newServer(t)
	g.ack = func(a groupmanager.AckRequest) (groupmanager.AckAnswer, error) {
		switch a.Token {
		case "good":
			return groupmanager.AckAnswer{Result: "committed", Generation: 42, CommittedOffset: new(int64(1250))}, nil
		case "accepted":
			return groupmanager.AckAnswer{Result: "accepted", Generation: 42}, nil
		case "stale":
			return groupmanager.AckAnswer{}, &groupmanager.StaleError{Current: 43}
		case "panic":
			panic("out of my depth")
		}
		return groupmanager.AckAnswer{}, groupmanager.ErrTokenInvalid
	}
	body := `{"acks": [{"token": "good"}, {"token": "stale"}, 7, ` + byFields + `, {"token": "panic"},
		{"token": "good", "offset": 1}, {"token": "accepted"}, {"token": "forged"}, {}]}`
	response := exchange{method: "POST", path: "/ack", body: body, anonymous: true}.do(t, s)
	got := into[api.AckResults](t, response, http.StatusOK)
	type brief struct {
		Status  int
		Word    string // result or code
		Pointer string
	}
	var results []brief
	for _, r := range got.Results {
		b := brief{Status: r.Status}
		if r.Result != nil {
			b.Word = string(*r.Result)
		} else {
			b.Word = string(*r.Code)
		}
		if r.Errors != nil {
			b.Pointer = (*r.Errors)[0].Pointer
		}
		results = append(results, b)
	}
	want := []brief{
		{200, "committed", ""}, {409, "generation_stale", ""}, {422, "validation_failed", ""}, {401, "unauthorized", ""},
		{500, "internal", ""}, {422, "validation_failed", "/offset"}, {202, "accepted", ""}, {401, "token_invalid", ""},
		{401, "unauthorized", ""},
	}
	if diff := cmp.Diff(want, results); diff != "" {
		t.Errorf("results (-want +got):\n%s", diff)
	}
	if g := got.Results[1].CurrentGeneration; g == nil || *g != 43 {
		t.Errorf("current_generation of a stale ack is %v, want 43", g)
	}
}

// Acks that wait for a commit have to wait together, or a list of a thousand
// would take a thousand commits.
func TestAckListWaitsTogether(t *testing.T) {
	s, g := newServer(t)
	var mu sync.Mutex
	waiting, most, rounds := 0, 0, 0
	commit := make(chan struct{})
	g.ack = func(groupmanager.AckRequest) (groupmanager.AckAnswer, error) {
		mu.Lock()
		waiting++
		most = max(most, waiting)
		mine := commit
		if waiting == acksAtOnce { // the commit comes once no more can join
			waiting, rounds, commit = 0, rounds+1, make(chan struct{})
			close(mine)
		}
		mu.Unlock()
		<-mine
		return groupmanager.AckAnswer{Result: "committed"}, nil
	}
	body := `{"acks": [` + strings.Repeat(`{"token": "t"},`, maxAcks-1) + `{"token": "t"}]}`
	got := into[api.AckResults](t, exchange{method: "POST", path: "/ack", body: body}.do(t, s), http.StatusOK)
	if len(got.Results) != maxAcks || most != acksAtOnce || rounds != maxAcks/acksAtOnce {
		t.Errorf("%d results in %d commits, %d acks at a time, want %d, %d, %d",
			len(got.Results), rounds, most, maxAcks, maxAcks/acksAtOnce, acksAtOnce)
	}
}

// Acks for an owner that does not answer must not take the others' time, too: each
// of a list comes to its turn before the request's time is up.
func TestAckListLeavesTimeForAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, g := newServer(t)
		g.stuck = "stuck"
		g.ack = answering(groupmanager.AckAnswer{Result: "committed"}, nil)
		const good = 10
		body := `{"acks": [` + strings.Repeat(`{"token": "stuck"},`, maxAcks-good) + strings.Repeat(`{"token": "good"},`, good-1) + `{"token": "good"}]}`
		start := time.Now()
		got := into[api.AckResults](t, exchange{method: "POST", path: "/ack", body: body}.do(t, s), http.StatusOK)
		for i, r := range got.Results {
			want := 503
			if i >= maxAcks-good {
				want = 200
			}
			if r.Status != want {
				t.Errorf("ack %d was answered %d, want %d", i, r.Status, want)
			}
		}
		if took := time.Since(start); took != defaultRequestTimeout {
			t.Errorf("the list was answered after %v, want %v", took, defaultRequestTimeout)
		}
	})
}

// FuzzDecodeAck holds the decoder against encoding/json: what it takes has the
// values that are there, and nothing makes it panic.
func FuzzDecodeAck(f *testing.F) {
	for _, seed := range []string{
		byFields, `{"token": "t"}`, `{"token": "t", "up_to_offset": 1210}`, `{"acks": [{"token": "t"}, 7]}`,
		`{"token": "t", "outcome": "nack", "delay_ms": 5000, "reason": "db down"}`,
		`{"token": "t", "outcome": "extend", "extend_ms": 60000}`, `{"offset": 1e3}`, `{"offset": 9223372036854775808}`,
		`{"token":"\ud800"}`, `[]`, `{"token": "t", "token": "u"}`, `{"a~/b": null}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		if !json.Valid(body) {
			return // refused before
		}
		if acks, isList, err := ackList(body); err == nil && isList && len(acks) > maxAcks {
			t.Errorf("took a list of %d acks", len(acks))
		}
		a, err := decodeAck(body, true)
		if err != nil {
			var refused *invalidError
			if !errors.As(err, &refused) || len(refused.fields) == 0 || len(refused.fields) > maxComplaints {
				t.Fatalf("refused with %v, want complaints", err)
			}
			return
		}
		var want struct {
			Token, Topic, Outcome, Reason string
			WebhookID                     string `json:"webhook_id"`
			GroupID                       string `json:"group_id"`
			Partition, Generation         int32
			Offset                        int64
			UpToOffset                    *int64 `json:"up_to_offset"`
		}
		if err := json.Unmarshal(body, &want); err != nil {
			t.Fatalf("took what encoding/json does not: %v", err)
		}
		if want.Outcome == "" && a.Token != "" {
			want.Outcome = "ack"
		}
		got := want
		got.Token, got.Topic, got.Reason, got.WebhookID, got.GroupID = a.Token, a.Topic, a.Reason, a.WebhookID, a.GroupID
		got.Partition, got.Generation, got.Offset, got.UpToOffset = a.Partition, a.Generation, a.Offset, a.UpToOffset
		if a.Token != "" {
			got.Outcome = a.Outcome
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("decoded something else (-want +got):\n%s", diff)
		}
		if (a.Token == "") == (a.WebhookID == "" && a.GroupID == "") || a.Generation < 0 || a.Partition < 0 {
			t.Errorf("took an ack that names nothing, or twice: %+v", a)
		}
	})
}
