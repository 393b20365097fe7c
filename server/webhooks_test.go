package server

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/kpush/kpush/groupmanager"
	"github.com/kpush/kpush/server/api"
	"github.com/kpush/kpush/webhooks"
)

func sortedEntries(m map[string]webhooks.Entry) []webhooks.Entry {
	return slices.SortedFunc(maps.Values(m), func(a, b webhooks.Entry) int { return cmp.Compare(a.Webhook.ID, b.Webhook.ID) })
}

const orders = `{"url": "https://billing.example.com/hooks/orders", "topics": ["orders"]}`

func TestCreateWebhook(t *testing.T) {
	s, _ := newServer(t)
	response := exchange{method: "POST", path: "/v1/webhooks", body: orders}.do(t, s)
	got := into[api.CreatedWebhook](t, response, http.StatusCreated)
	if !strings.HasPrefix(got.ID, "wh_") {
		t.Errorf("id %q, want one that was made", got.ID)
	}
	if !strings.HasPrefix(got.Secret, "whsec_") {
		t.Errorf("secret %q, want one", got.Secret)
	}
	if got, want := response.Header.Get("Location"), "/v1/webhooks/"+got.ID; got != want {
		t.Errorf("Location %q, want %q", got, want)
	}
	if got, want := response.Header.Get("ETag"), `"1"`; got != want {
		t.Errorf("ETag %q, want %q", got, want)
	}
	if got, want := response.Header.Get("Cache-Control"), "no-store"; got != want {
		t.Errorf("Cache-Control %q, want %q: the answer holds a secret", got, want)
	}
}

// A POST without an id that is sent again makes a second webhook: who was not told
// whether the first one is there has to be able to look.
func TestACreationOfUnknownFateTellsWhereToLook(t *testing.T) {
	for name, tt := range map[string]struct {
		err  error
		body string
		id   string // in the detail
	}{
		"Kafka does not answer":    {webhooks.ErrUnavailable, orders, "wh_"},
		"the time is up":           {context.DeadlineExceeded, orders, "wh_"},
		"another has taken over":   {fmt.Errorf("writing: %w", webhooks.ErrFenced), orders, "wh_"},
		"with an id of the client": {webhooks.ErrUnavailable, strings.Replace(orders, "{", `{"id": "mine", `, 1), "mine"},
		"nobody leads: it was not": {fmt.Errorf("%w: %w", webhooks.ErrUnavailable, webhooks.ErrNotLeader), orders, ""},
	} {
		t.Run(name, func(t *testing.T) {
			s, g := newServer(t)
			g.err = tt.err
			p := wantProblem(t, exchange{method: "POST", path: "/v1/webhooks", body: tt.body}.do(t, s), 503, api.ErrorCodeUnavailable)
			if tt.id == "" {
				if !strings.Contains(p.Detail, "Nothing was changed") {
					t.Errorf("detail %q, want it to say that nothing was changed", p.Detail)
				}
				return
			}
			if !strings.Contains(p.Detail, "webhook "+tt.id) || strings.Contains(p.Detail, "safe") {
				t.Errorf("detail %q, want it to name the webhook, and not to call trying again safe", p.Detail)
			}
		})
	}
}

func TestSecretIsShownOnce(t *testing.T) {
	s, _ := newServer(t)
	read := func(status int, x exchange) string {
		response := x.do(t, s)
		data, err := io.ReadAll(response.Body)
		if err != nil || response.StatusCode != status {
			t.Fatalf("%s %s: %d, %v, want %d", x.method, x.path, response.StatusCode, err, status)
		}
		return string(data)
	}
	if first := read(201, exchange{method: "PUT", path: "/v1/webhooks/a", body: orders}); !strings.Contains(first, "whsec_") {
		t.Errorf("the first PUT shows no secret: %s", first)
	}
	for _, x := range []exchange{
		{method: "PUT", path: "/v1/webhooks/a", body: orders},
		{method: "GET", path: "/v1/webhooks/a"},
		{method: "GET", path: "/v1/webhooks"},
		{method: "POST", path: "/v1/webhooks/a/pause"},
		{method: "POST", path: "/v1/webhooks/a/resume"},
	} {
		if later := read(200, x); strings.Contains(later, "secret") {
			t.Errorf("%s %s shows a secret: %s", x.method, x.path, later)
		}
	}
}

func TestWhatWasReadCanBePut(t *testing.T) {
	s, _ := newServer(t)
	exchange{method: "PUT", path: "/v1/webhooks/a", body: orders}.do(t, s)
	got, err := io.ReadAll(exchange{method: "GET", path: "/v1/webhooks/a"}.do(t, s).Body)
	if err != nil {
		t.Fatal(err)
	}
	response := exchange{method: "PUT", path: "/v1/webhooks/a", body: string(got)}.do(t, s)
	into[api.Webhook](t, response, http.StatusOK)
}

func TestIfMatch(t *testing.T) {
	tests := map[string]struct {
		id, ifMatch string
		status      int
	}{
		"the revision that stands is replaced":       {"a", `"1"`, 200},
		"another one is not":                         {"a", `"2"`, 412},
		"a weak tag never matches":                   {"a", `W/"1"`, 412},
		"one of a list is enough":                    {"a", `"7", "1"`, 200},
		"a list without it is not":                   {"a", `"7", "8"`, 412},
		"a star is whichever stands":                 {"a", `*`, 200},
		"a star needs one to stand":                  {"b", `*`, 412},
		"a revision needs one to stand":              {"b", `"1"`, 412},
		"a tag of somebody else's making":            {"a", `"abc"`, 412},
		"a number without quotes is not an ETag":     {"a", `1`, 422},
		"an empty header is not an ETag":             {"a", ``, 422},
		"a number beyond 64 bits is not ours either": {"a", `"99999999999999999999"`, 412},
		"a number written otherwise is another tag":  {"a", `"01"`, 412},
		"a number below all revisions is none":       {"a", `"-1"`, 412},
		"a list longer than we read":                 {"a", `"1"` + strings.Repeat(`,"1"`, 256), 422},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			s, g := newServer(t)
			exchange{method: "PUT", path: "/v1/webhooks/a", body: orders}.do(t, s)
			response := exchange{
				method: "PUT", path: "/v1/webhooks/" + tt.id, body: orders,
				header: map[string]string{"If-Match": tt.ifMatch},
			}.do(t, s)
			if response.StatusCode != tt.status {
				t.Errorf("status %d, want %d", response.StatusCode, tt.status)
			}
			if got, changed := g.entries["a"].Revision, tt.status == 200; (got == 2) != changed {
				t.Errorf("revision %d after a %d", got, response.StatusCode)
			}
		})
	}
}

// A client that was told an ETag by one replica may ask another one to replace that
// revision before it has read of it.
func TestIfMatchIsNotJudgedByWhatWasRead(t *testing.T) {
	s, g := newServer(t)
	exchange{method: "PUT", path: "/v1/webhooks/a", body: orders}.do(t, s)
	g.unread = map[string]bool{"a": true}
	for _, tt := range []struct {
		ifMatch string
		status  int
	}{{`"8", "9"`, 412}, {`"1"`, 200}, {`"1", "2"`, 200}, {`*`, 200}} {
		x := exchange{method: "PUT", path: "/v1/webhooks/a", body: orders, header: map[string]string{"If-Match": tt.ifMatch}}
		if response := x.do(t, s); response.StatusCode != tt.status {
			t.Errorf("If-Match %s: status %d, want %d", tt.ifMatch, response.StatusCode, tt.status)
		}
	}
}

// A star is for the leader to judge, too, in one call: a replica that lags behind, or
// that others keep overtaking, would call it again and again.
func TestIfMatchStarSurvivesARace(t *testing.T) {
	s, g := newServer(t)
	exchange{method: "PUT", path: "/v1/webhooks/a", body: orders}.do(t, s)
	races := 0
	g.beforePut = func() { // somebody else changes it before our put
		races++
		g.mu.Lock()
		defer g.mu.Unlock()
		e := g.entries["a"]
		e.Revision++
		g.entries["a"] = e
	}
	x := exchange{method: "PUT", path: "/v1/webhooks/a", body: orders, header: map[string]string{"If-Match": "*"}}
	into[api.Webhook](t, x.do(t, s), http.StatusOK)
	if races != 1 {
		t.Errorf("%d calls, want one", races)
	}

	x.header["If-Match"] = etag(g.entries["a"].Revision)
	wantProblem(t, x.do(t, s), http.StatusPreconditionFailed, api.ErrorCodePreconditionFailed)
}

func TestListWebhooks(t *testing.T) {
	s, g := newServer(t)
	for i := range 120 {
		w := webhooks.Default()
		w.ID, w.URL, w.Topics = fmt.Sprintf("w-%03d", i), "https://a.example.com", []string{"orders"}
		w.GroupID = "kpush.default." + w.ID
		w.Labels = map[string]string{"team": []string{"billing", "a:b"}[i%2], "even": fmt.Sprint(i%2 == 0)}
		if i%10 == 0 {
			w.Topics, w.State = []string{"orders", "refunds"}, webhooks.Paused
		}
		if i%10 == 1 {
			w.Topics = []string{"^refunds|^bills\\.eu$"}
		}
		g.entries[w.ID] = webhooks.Entry{Webhook: w, Revision: 1}
	}
	tests := map[string]struct {
		query string
		pages []int // how many on each
	}{
		"fifty at a time":             {"", []int{50, 50, 20}},
		"as many as asked for":        {"limit=100", []int{100, 20}},
		"no page after a full one":    {"limit=60", []int{60, 60}},
		"by topic":                    {"topic=refunds", []int{24}},
		"by a topic of a pattern":     {"topic=bills.eu", []int{12}},
		"a pattern is no topic":       {"topic=%5Erefunds", []int{0}},
		"by state":                    {"state=paused", []int{12}},
		"by state, none":              {"state=degraded", []int{0}},
		"by label":                    {"label=team:billing&limit=250", []int{60}},
		"by a value with a colon":     {"label=team:a:b&limit=250", []int{60}},
		"by two labels":               {"label=team:billing&label=even:true&limit=50", []int{50, 10}},
		"by labels that never meet":   {"label=team:billing&label=even:false", []int{0}},
		"filters narrow together":     {"topic=refunds&state=paused", []int{12}},
		"the same label given twice":  {"label=even:true&label=even:true&limit=250", []int{60}},
		"by a label nobody has":       {"label=none:", []int{0}},
		"an id is not taken for more": {"limit=1&topic=bills.eu", slices.Repeat([]int{1}, 12)},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			var pages []int
			var ids []string
			for cursor := ""; ; {
				path := "/v1/webhooks?" + tt.query
				if cursor != "" {
					path += "&cursor=" + cursor
				}
				list := into[api.WebhookList](t, exchange{method: "GET", path: path}.do(t, s), http.StatusOK)
				pages = append(pages, len(list.Data))
				for _, w := range list.Data {
					ids = append(ids, w.ID)
				}
				if list.NextCursor == nil {
					break
				}
				cursor = *list.NextCursor
			}
			if diff := gocmp.Diff(tt.pages, pages); diff != "" {
				t.Errorf("pages (-want +got):\n%s", diff)
			}
			if !slices.IsSorted(ids) || len(slices.Compact(slices.Clone(ids))) != len(ids) {
				t.Errorf("ids are not in order, each once: %v", ids)
			}
		})
	}
}

func TestBadQuery(t *testing.T) {
	s, _ := newServer(t)
	exchange{method: "PUT", path: "/v1/webhooks/a", body: orders}.do(t, s)
	tests := map[string]struct{ method, path, pointer string }{
		"a limit of none":             {"GET", "/v1/webhooks?limit=0", "query/limit"},
		"a limit above the most":      {"GET", "/v1/webhooks?limit=251", "query/limit"},
		"a limit that is no number":   {"GET", "/v1/webhooks?limit=s3cret", "query/limit"},
		"a limit beyond 64 bits":      {"GET", "/v1/webhooks?limit=9223372036854775808", "query/limit"},
		"a limit given twice":         {"GET", "/v1/webhooks?limit=1&limit=2", "query/limit"},
		"a cursor that is not ours":   {"GET", "/v1/webhooks?cursor=s3cret", "query/cursor"},
		"a cursor that is no base64":  {"GET", "/v1/webhooks?cursor=%25%25", "query/cursor"},
		"a state there is not":        {"GET", "/v1/webhooks?state=s3cret", "query/state"},
		"a label without a colon":     {"GET", "/v1/webhooks?label=s3cret", "query/label"},
		"two values of one label":     {"GET", "/v1/webhooks?label=a:1&label=a:2", "query/label"},
		"a parameter there is not":    {"GET", "/v1/webhooks?limt=1", "query/limt"},
		"a limit of no partitions":    {"GET", "/v1/webhooks/a/partitions?limit=0", "query/limit"},
		"a limit of too many":         {"GET", "/v1/webhooks/a/partitions?limit=251", "query/limit"},
		"a cursor of webhooks":        {"GET", "/v1/webhooks/a/partitions?cursor=" + *cursor("a"), "query/cursor"},
		"a cursor of no partition":    {"GET", "/v1/webhooks/a/partitions?cursor=" + *cursor("orders/s3cret"), "query/cursor"},
		"a query that is not encoded": {"GET", "/v1/webhooks?topic=%zz", "query"},
		"a misspelt offsets":          {"DELETE", "/v1/webhooks/a?offset=delete", "query/offset"},
		"an offsets there is not":     {"DELETE", "/v1/webhooks/a?offsets=s3cret", "query/offsets"},
		"a long name is not repeated": {"GET", "/v1/webhooks?" + strings.Repeat("x", 1000) + "=1", "query"},
		"where none are known at all": {"GET", "/v1/webhooks/a?verbose=1", "query/verbose"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			p := wantProblem(t, exchange{method: tt.method, path: tt.path}.do(t, s), 422, api.ErrorCodeValidationFailed)
			if p.Errors == nil || len(*p.Errors) != 1 || (*p.Errors)[0].Pointer != tt.pointer {
				t.Errorf("errors %v, want one about %s", p.Errors, tt.pointer)
			}
			if strings.Contains(fmt.Sprint(p.Errors, p.Detail), "s3cret") {
				t.Errorf("the answer repeats the value: %v %s", p.Errors, p.Detail)
			}
		})
	}
}

// A replica that is cut off from Kafka answers what it knows, and tells its age.
func TestReadsWhileCutOffTellTheirAge(t *testing.T) {
	for age, want := range map[time.Duration]string{
		0: "", 4999 * time.Millisecond: "", 5 * time.Second: "5", 90*time.Second + 999*time.Millisecond: "90",
	} {
		s, g := newServer(t)
		exchange{method: "PUT", path: "/v1/webhooks/a", body: orders}.do(t, s)
		g.age = age
		for _, path := range []string{"/v1/webhooks", "/v1/webhooks/a"} {
			response := exchange{method: "GET", path: path}.do(t, s)
			if got := response.Header.Get("Age"); got != want || response.StatusCode != http.StatusOK {
				t.Errorf("GET %s at an age of %v: status %d, Age %q, want 200, %q", path, age, response.StatusCode, got, want)
			}
		}
		if got := (exchange{method: "PUT", path: "/v1/webhooks/a", body: orders}).do(t, s).Header.Get("Age"); got != "" {
			t.Errorf("the answer to a PUT has an Age of %s, want none: it is of now", got)
		}
	}
}

// No webhooks and none read yet are two answers: who takes the second one for the
// first would make them all anew.
func TestListBeforeTheRegistryIsRead(t *testing.T) {
	s, g := newServer(t)
	g.err = webhooks.ErrUnavailable
	wantProblem(t, exchange{method: "GET", path: "/v1/webhooks"}.do(t, s), 503, api.ErrorCodeUnavailable)
}

func TestDeleteWebhook(t *testing.T) {
	for query, offsets := range map[string]bool{"": false, "?offsets=keep": false, "?offsets=delete": true} {
		s, g := newServer(t)
		exchange{method: "PUT", path: "/v1/webhooks/a", body: orders}.do(t, s)
		response := exchange{method: "DELETE", path: "/v1/webhooks/a" + query}.do(t, s)
		if response.StatusCode != http.StatusNoContent || g.deletedOffsets != offsets {
			t.Errorf("DELETE %s: status %d, offsets deleted %v, want 204, %v", query, response.StatusCode, g.deletedOffsets, offsets)
		}
		wantProblem(t, exchange{method: "GET", path: "/v1/webhooks/a"}.do(t, s), 404, api.ErrorCodeNotFound)
		wantProblem(t, exchange{method: "DELETE", path: "/v1/webhooks/a"}.do(t, s), 404, api.ErrorCodeNotFound)
	}
}

func TestPauseAndResume(t *testing.T) {
	s, _ := newServer(t)
	exchange{method: "PUT", path: "/v1/webhooks/a", body: orders}.do(t, s)
	for _, step := range []struct {
		call string
		want webhooks.State
	}{{"pause", webhooks.Paused}, {"pause", webhooks.Paused}, {"resume", webhooks.Active}, {"resume", webhooks.Active}} {
		response := exchange{method: "POST", path: "/v1/webhooks/a/" + step.call}.do(t, s)
		if got := into[api.Webhook](t, response, http.StatusOK); got.State != step.want {
			t.Errorf("after %s the state is %s, want %s", step.call, got.State, step.want)
		}
		wantProblem(t, exchange{method: "POST", path: "/v1/webhooks/b/" + step.call}.do(t, s), 404, api.ErrorCodeNotFound)
	}
}

func TestListPartitions(t *testing.T) {
	s, g := newServer(t)
	exchange{method: "PUT", path: "/v1/webhooks/a", body: orders}.do(t, s)
	at := time.Date(2026, 9, 22, 10, 0, 0, 123_456_789, time.FixedZone("", 3600))
	g.rows = []groupmanager.PartitionStatus{
		{
			Topic: "orders", Partition: 0, Owner: "replica-1", Generation: 42, State: groupmanager.PartitionBackingOff,
			CommittedOffset: new(int64(1250)), DeliveredOffset: new(int64(1299)), EndOffset: new(int64(1300)), Lag: new(int64(50)),
			Filtered: 7, InFlight: 1, HeldRecords: 7, Attempt: 3, NextAttemptAt: &at,
			LastError: &groupmanager.AttemptError{Code: "http_status", Status: 500, At: at},
		},
		{Topic: "orders", Partition: 1, Generation: -1, State: groupmanager.PartitionUnassigned, LastError: &groupmanager.AttemptError{Code: "timeout", At: at}},
	}
	response := exchange{method: "GET", path: "/v1/webhooks/a/partitions"}.do(t, s)
	got := into[api.PartitionList](t, response, http.StatusOK)
	utc := time.Date(2026, 9, 22, 9, 0, 0, 123_000_000, time.UTC)
	want := api.PartitionList{Data: []api.Partition{
		{
			Topic: "orders", Owner: new("replica-1"), Generation: new(int32(42)), State: api.PartitionStateBackingOff,
			CommittedOffset: new(int64(1250)), DeliveredOffset: new(int64(1299)), EndOffset: new(int64(1300)), Lag: new(int64(50)),
			Filtered: 7, InFlight: 1, HeldRecords: 7, Attempt: 3, NextAttemptAt: &utc,
			LastError: &api.AttemptError{Code: "http_status", Status: new(500), At: utc},
		},
		{Topic: "orders", Partition: 1, State: api.PartitionStateUnassigned, LastError: &api.AttemptError{Code: "timeout", At: utc}},
	}}
	if diff := gocmp.Diff(want, got); diff != "" {
		t.Errorf("partitions (-want +got):\n%s", diff)
	}
	wantProblem(t, exchange{method: "GET", path: "/v1/webhooks/b/partitions"}.do(t, s), 404, api.ErrorCodeNotFound)
}

// All lists have limit and cursor; this one took neither.
func TestPartitionsComeInPages(t *testing.T) {
	s, g := newServer(t)
	exchange{method: "PUT", path: "/v1/webhooks/a", body: orders}.do(t, s)
	longest := strings.Repeat("x", 249)
	for _, topic := range []string{"orders", "orders-eu", longest} {
		for p := range int32(120) {
			g.rows = append(g.rows, groupmanager.PartitionStatus{Topic: topic, Partition: p, Generation: -1, State: groupmanager.PartitionUnassigned})
		}
	}
	for query, pages := range map[string][]int{
		"?":          {50, 50, 50, 50, 50, 50, 50, 10},
		"?limit=250": {250, 110},
		"?limit=120": {120, 120, 120},
		"?limit=121": {121, 121, 118},
	} {
		var rows []groupmanager.PartitionStatus
		var got []int
		for cursor := ""; ; {
			page := into[api.PartitionList](t, exchange{method: "GET", path: "/v1/webhooks/a/partitions" + query + cursor}.do(t, s), http.StatusOK)
			got = append(got, len(page.Data))
			for _, row := range page.Data {
				rows = append(rows, groupmanager.PartitionStatus{Topic: row.Topic, Partition: row.Partition, Generation: -1, State: groupmanager.PartitionUnassigned})
			}
			if page.NextCursor == nil || len(got) > len(pages) {
				break
			}
			cursor = "&cursor=" + *page.NextCursor
			if len(*page.NextCursor) > 512 {
				t.Errorf("a cursor of %d bytes, and openapi.yaml has 512 at most", len(*page.NextCursor))
			}
		}
		if !slices.Equal(got, pages) {
			t.Errorf("%s: pages of %v, want %v", query, got, pages)
		}
		if diff := gocmp.Diff(g.rows, rows); diff != "" {
			t.Errorf("%s: the pages are not all partitions in their order (-want +got):\n%s", query, diff)
		}
	}
}

func TestErrorsOfTheGateway(t *testing.T) {
	const inside = "dial tcp 10.1.2.3:9092: connection refused"
	tests := map[string]struct {
		err    error
		status int
		code   api.ErrorCode
	}{
		"exists":        {webhooks.ErrExists, 409, api.ErrorCodeExists},
		"group in use":  {webhooks.ErrGroupInUse, 409, api.ErrorCodeGroupInUse},
		"no such topic": {&groupmanager.TopicError{Topic: "orders"}, 422, api.ErrorCodeTopicNotFound},
		"unavailable":   {webhooks.ErrUnavailable, 503, api.ErrorCodeUnavailable},
		"no leader":     {webhooks.ErrNotLeader, 503, api.ErrorCodeUnavailable},
		"fenced":        {webhooks.ErrFenced, 503, api.ErrorCodeUnavailable},
		"unreadable":    {webhooks.ErrUnreadable, 503, api.ErrorCodeUnavailable},
		"a bug":         {errors.New("nil map"), 500, api.ErrorCodeInternal},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			s, g := newServer(t)
			g.err = fmt.Errorf("asking %s: %w", inside, tt.err)
			response := exchange{method: "POST", path: "/v1/webhooks", body: orders}.do(t, s)
			p := wantProblem(t, response, tt.status, tt.code)
			if strings.Contains(fmt.Sprint(p), "10.1.2.3") {
				t.Errorf("the answer tells what only the log should: %v", p)
			}
		})
	}
}

// TestH5_CredentialsAreMaskedInEveryAnswer of the API that shows a webhook.
func TestH5_CredentialsAreMaskedInEveryAnswer(t *testing.T) {
	s, _ := newServer(t)
	const body = `{"url": "https://a.example.com", "topics": ["orders"], "request": {"headers": {"authorization": "Bearer s3cret", "x-env": "prod"}}}`
	for _, x := range []exchange{
		{method: "PUT", path: "/v1/webhooks/a", body: body}, // 201
		{method: "PUT", path: "/v1/webhooks/a", body: body}, // 200
		{method: "POST", path: "/v1/webhooks", body: body},
		{method: "GET", path: "/v1/webhooks/a"},
		{method: "GET", path: "/v1/webhooks"},
		{method: "POST", path: "/v1/webhooks/a/pause"},
		{method: "POST", path: "/v1/webhooks/a/resume"},
	} {
		response := x.do(t, s)
		data, err := io.ReadAll(response.Body)
		if err != nil {
			t.Fatal(err)
		}
		text := string(data)
		if strings.Contains(text, "s3cret") || !strings.Contains(text, `"authorization":"********"`) || !strings.Contains(text, `"x-env":"prod"`) {
			t.Errorf("%s %s is answered %d %s", x.method, x.path, response.StatusCode, text)
		}
	}
}
