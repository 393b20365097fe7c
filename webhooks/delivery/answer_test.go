package delivery

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/kpush/kpush/webhooks"
)

const jsonType = "application/json"

// answers is the table of contract section 4 and what 5.3 adds to it.
var answers = []struct {
	claim    string
	status   int
	kind     string // content type
	body     string
	after    string // Retry-After
	auto     Result
	explicit Result
}{
	{"200 acks, or is received", 200, "", "", "", Result{Verdict: Acked}, Result{Verdict: Received}},
	{"200 with text", 200, "text/plain", `{"ack":{"outcome":"nack"}}`, "", Result{Verdict: Acked}, Result{Verdict: Received}},
	{"201 acks", 201, "", "", "", Result{Verdict: Acked}, Result{Verdict: Received}},
	{"202 is received in both modes", 202, "", "", "", Result{Verdict: Received}, Result{Verdict: Received}},
	{"204 acks", 204, "", "", "", Result{Verdict: Acked}, Result{Verdict: Received}},
	{"299 acks", 299, "", "", "", Result{Verdict: Acked}, Result{Verdict: Received}},
	{"Retry-After on a 2xx is nothing", 200, "", "", "7", Result{Verdict: Acked}, Result{Verdict: Received}},
	{"JSON without an ack is plain", 200, jsonType, `{"ok":true}`, "", Result{Verdict: Acked}, Result{Verdict: Received}},
	{"an empty body called JSON is plain", 200, jsonType, ``, "", Result{Verdict: Acked}, Result{Verdict: Received}},
	{"an inline ack wins over 200", 200, jsonType, `{"ack":{"up_to_offset":5}}`, "",
		Result{Verdict: Stated, Ack: &Ack{Outcome: "ack", UpToOffset: offset(5)}}, Result{Verdict: Stated, Ack: &Ack{Outcome: "ack", UpToOffset: offset(5)}}},
	{"an inline ack wins over 202", 202, jsonType + "; charset=utf-8", `{"ack":{}}`, "", Result{Verdict: Stated, Ack: &Ack{Outcome: "ack"}}, Result{Verdict: Stated, Ack: &Ack{Outcome: "ack"}}},
	{"content types have no case", 200, "Application/JSON ;charset=\"utf-8\"", `{"ack":{"outcome":"nack"}}`, "", Result{Verdict: Stated, Ack: &Ack{Outcome: "nack"}}, Result{Verdict: Stated, Ack: &Ack{Outcome: "nack"}}},
	{"a broken parameter leaves the type", 200, jsonType + "; charset", `{"ack":{"outcome":"nack"}}`, "", Result{Verdict: Stated, Ack: &Ack{Outcome: "nack"}}, Result{Verdict: Stated, Ack: &Ack{Outcome: "nack"}}},
	{"other JSON types carry no ack", 200, "application/vnd.api+json", `{"ack":{"outcome":"nack"}}`, "", Result{Verdict: Acked}, Result{Verdict: Received}},
	{"an ack that does not fit", 200, jsonType, `{"ack":{"outcome":"maybe"}}`, "", Result{Code: "ack_malformed"}, Result{Code: "ack_malformed"}},
	{"an ack that does not fit, in a 202", 202, jsonType, `{"ack":7}`, "", Result{Code: "ack_malformed"}, Result{Code: "ack_malformed"}},
	{"300 is not followed", 300, "", "", "", Result{Code: "redirect_not_followed"}, Result{Code: "redirect_not_followed"}},
	{"304 is not followed", 304, "", "", "", Result{Code: "redirect_not_followed"}, Result{Code: "redirect_not_followed"}},
	{"400 fails", 400, "", "", "7", Result{Code: "http_400"}, Result{Code: "http_400"}},
	{"an ack in a 400 is none", 400, jsonType, `{"ack":{}}`, "", Result{Code: "http_400"}, Result{Code: "http_400"}},
	{"401 fails", 401, "", "", "", Result{Code: "http_401"}, Result{Code: "http_401"}},
	{"404 fails", 404, "", "", "", Result{Code: "http_404"}, Result{Code: "http_404"}},
	{"408 says when", 408, "", "", "7", Result{Code: "http_408", RetryAfter: 7 * time.Second}, Result{Code: "http_408", RetryAfter: 7 * time.Second}},
	{"410 is gone", 410, "", "", "7", Result{Verdict: Gone, Code: "http_410"}, Result{Verdict: Gone, Code: "http_410"}},
	{"413 is too large", 413, "", "", "7", Result{Verdict: TooLarge, Code: "http_413"}, Result{Verdict: TooLarge, Code: "http_413"}},
	{"422 fails", 422, "", "", "", Result{Code: "http_422"}, Result{Code: "http_422"}},
	{"425 says when", 425, "", "", "7", Result{Code: "http_425", RetryAfter: 7 * time.Second}, Result{Code: "http_425", RetryAfter: 7 * time.Second}},
	{"429 says when", 429, "", "", "7", Result{Code: "http_429", RetryAfter: 7 * time.Second}, Result{Code: "http_429", RetryAfter: 7 * time.Second}},
	{"500 fails", 500, "", "", "", Result{Code: "http_500"}, Result{Code: "http_500"}},
	{"503 says when", 503, "", "", "7", Result{Code: "http_503", RetryAfter: 7 * time.Second}, Result{Code: "http_503", RetryAfter: 7 * time.Second}},
	{"503 with nonsense says nothing", 503, "", "", "-7", Result{Code: "http_503"}, Result{Code: "http_503"}},
	{"599 fails", 599, "", "", "", Result{Code: "http_599"}, Result{Code: "http_599"}},
	{"600 and more fail", 999, "", "", "7", Result{Code: "http_999", RetryAfter: 7 * time.Second}, Result{Code: "http_999", RetryAfter: 7 * time.Second}},
}

// ignoreClock leaves out what differs from run to run.
var ignoreClock = cmpopts.IgnoreFields(Result{}, "At", "Took")

func TestJudge(t *testing.T) {
	for _, test := range answers {
		h := http.Header{"Content-Type": {test.kind}, "Retry-After": {test.after}}
		for explicit, want := range map[bool]Result{false: test.auto, true: test.explicit} {
			ans := newAnswer(test.status, h)
			ans.body = []byte(test.body)
			want.Status = test.status
			if diff := cmp.Diff(want, ans.judge(explicit, time.Now())); diff != "" {
				t.Errorf("%s, explicit %v (-want +got):\n%s", test.claim, explicit, diff)
			}
		}
	}
}

func TestJudgeBodiesThatWereNotReadWhole(t *testing.T) {
	json := http.Header{"Content-Type": {jsonType}}
	for _, test := range []struct {
		claim string
		ans   answer
		want  Result
	}{
		{"a body cut short fails whatever the status", answer{status: 200, broken: CodeTruncated}, Result{Status: 200, Code: CodeTruncated}},
		{"a late one, too", answer{status: 410, broken: CodeTimeout}, Result{Status: 410, Code: CodeTimeout}},
		{"and the receiver's wish still counts", answer{status: 503, broken: CodeTruncated, header: http.Header{"Retry-After": {"3"}}}, Result{Status: 503, Code: CodeTruncated, RetryAfter: 3 * time.Second}},
		{"of a longer one the status counts", answer{status: 200, longer: true}, Result{Status: 200, Verdict: Acked}},
		{"but not if an ack may be in it", answer{status: 200, longer: true, json: true, header: json}, Result{Status: 200, Code: CodeTooLarge}},
		{"which on a failure makes no difference", answer{status: 500, longer: true, json: true, header: json}, Result{Status: 500, Code: "http_500"}},
		{"nor on a 410", answer{status: 410, longer: true, json: true, header: json}, Result{Status: 410, Verdict: Gone, Code: "http_410"}},
	} {
		if diff := cmp.Diff(test.want, test.ans.judge(false, time.Now())); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.claim, diff)
		}
	}
}

// TestAnswers runs the table over real sockets, twice on one connection.
func TestAnswers(t *testing.T) {
	for _, test := range answers {
		t.Run(test.claim, func(t *testing.T) {
			text := fmt.Sprintf("HTTP/1.1 %d X\r\nContent-Type: %s\r\nRetry-After: %s\r\nContent-Length: %d\r\n\r\n%s", test.status, test.kind, test.after, len(test.body), test.body)
			if test.status == http.StatusNoContent || test.status == http.StatusNotModified {
				text = strings.Replace(text, "Content-Length: 0\r\n", "", 1)
			}
			url := answering(t, text)
			for _, mode := range []string{webhooks.AckAuto, webhooks.AckExplicit} {
				c := testClient(t, url, func(w *webhooks.Webhook) { w.Ack.Mode = mode })
				want := test.auto
				if mode == webhooks.AckExplicit {
					want = test.explicit
				}
				want.Status = test.status
				for range 2 {
					if diff := cmp.Diff(want, deliver(t, c), ignoreClock); diff != "" {
						t.Errorf("%s (-want +got):\n%s", mode, diff)
					}
				}
			}
		})
	}
}
