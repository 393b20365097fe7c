package receiver

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"
)

// post is a request as the gateway makes it, signed with our secret.
func post(t testing.TB, body string) *http.Request {
	t.Helper()
	now := time.Now()
	r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/", strings.NewReader(body))
	r.Header = signed("dl_3kq9", now, v1(t, ourKey, "dl_3kq9", now, body))
	r.Header.Set("Kpush-Webhook", "orders-to-billing")
	return r
}

// reported is what a handler's Report was told.
type reported struct {
	status int
	err    error
}

// serve has h answer one request.
func serve(h *Handler, r *http.Request) (*httptest.ResponseRecorder, []reported) {
	var reports []reported
	h.Report = func(_ *http.Request, status int, err error) { reports = append(reports, reported{status, err}) }
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w, reports
}

func returning(a Ack, err error) func(context.Context, *Delivery) (Ack, error) {
	return func(context.Context, *Delivery) (Ack, error) { return a, err }
}

func TestWhatDeliverReturnsIsTheAnswer(t *testing.T) {
	secret := errors.New("dial 10.1.2.3: refused")
	tests := map[string]struct {
		deliver func(context.Context, *Delivery) (Ack, error)
		status  int
		body    string // of a 2xx
		report  string // part of it
	}{
		"all went well":                      {returning(Ack{}, nil), 200, ``, ``},
		"all is acked":                       {returning(AckAll(), nil), 200, `{"ack":{"outcome":"ack"}}`, ``},
		"the head is acked":                  {returning(AckUpTo(1203), nil), 200, `{"ack":{"outcome":"ack","up_to_offset":1203}}`, ``},
		"a head that ends in a hole":         {returning(AckUpTo(1205), nil), 200, `{"ack":{"outcome":"ack","up_to_offset":1205}}`, ``},
		"nack":                               {returning(Nack(time.Second, "no"), nil), 200, `{"ack":{"outcome":"nack","delay_ms":1000,"reason":"no"}}`, ``},
		"extend":                             {returning(Extend(time.Minute), nil), 200, `{"ack":{"outcome":"extend","extend_ms":60000}}`, ``},
		"reject":                             {returning(Reject("no"), nil), 200, `{"ack":{"outcome":"reject","reason":"no"}}`, ``},
		"partial":                            {returning(Partial(Failure{1203, ActionSkip, ""}), nil), 200, `{"ack":{"outcome":"partial","failures":[{"offset":1203,"action":"skip"}]}}`, ``},
		"later":                              {returning(Later(), nil), 202, ``, ``},
		"an error":                           {returning(Ack{}, secret), 500, ``, secret.Error()},
		"an error beside an ack is an error": {returning(AckAll(), secret), 500, ``, secret.Error()},
		"a head before the delivery":         {returning(AckUpTo(1199), nil), 500, ``, "1199"},
		"a head beyond the delivery":         {returning(AckUpTo(1207), nil), 500, ``, "1207"},
		"a failure elsewhere":                {returning(Partial(Failure{1207, ActionSkip, ""}), nil), 500, ``, "1207"},
		"an ack that does not fit":           {returning(Extend(0), nil), 500, ``, "does not fit"},
		"a panic":                            {func(context.Context, *Delivery) (Ack, error) { panic(secret.Error()) }, 500, ``, secret.Error()},
		"a panic of the runtime": {func(_ context.Context, d *Delivery) (Ack, error) {
			d.Records[len(d.Records)].Offset++
			return Ack{}, nil
		}, 500, ``, "out of range"},
		"nobody is there to take a delivery":  {nil, 500, ``, "no Deliver"},
		"a panic is reported with its origin": {func(context.Context, *Delivery) (Ack, error) { panic("x") }, 500, ``, "handler_test.go"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			w, reports := serve(&Handler{Secrets: secrets(t, whsec(ourKey)), Deliver: tt.deliver}, post(t, envelopeText))
			if w.Code != tt.status {
				t.Errorf("status %d, want %d", w.Code, tt.status)
			}
			body := w.Body.String()
			if tt.status != 500 && body != tt.body {
				t.Errorf("body\n got %s\nwant %s", body, tt.body)
			}
			if kind := w.Header().Get("Content-Type"); tt.body != "" && kind != "application/json" {
				t.Errorf("an inline ack of type %q is none", kind)
			}
			if strings.Contains(body, "10.1.2.3") || strings.Contains(body, "goroutine") {
				t.Errorf("the answer tells what went wrong inside: %s", body)
			}
			switch {
			case tt.report == "" && len(reports) > 0:
				t.Errorf("reported %v", reports)
			case tt.report != "" && (len(reports) != 1 || reports[0].status != 500 || !strings.Contains(reports[0].err.Error(), tt.report)):
				t.Errorf("reported %v, want one that says %q", reports, tt.report)
			}
		})
	}
}

// brokenBody ends in the midst.
type brokenBody struct{ io.Reader }

func (b brokenBody) Read(p []byte) (int, error) {
	if n, err := b.Reader.Read(p); err == nil {
		return n, nil
	}
	return 0, io.ErrUnexpectedEOF
}

func TestWhatIsNotForDeliver(t *testing.T) {
	tests := map[string]struct {
		edit    func(*Handler, *http.Request)
		status  int
		want    error
		body    string // default: an envelope
		unread  bool   // the body is not read
		deliver bool
	}{
		"GET":                                {edit: func(_ *Handler, r *http.Request) { r.Method = http.MethodGet }, status: 405, want: errMethod, unread: true},
		"OPTIONS":                            {edit: func(_ *Handler, r *http.Request) { r.Method = http.MethodOptions }, status: 405, want: errMethod, unread: true},
		"unsigned":                           {edit: func(_ *Handler, r *http.Request) { r.Header.Del(headerSignature) }, status: 401, want: ErrUnsigned, unread: true},
		"too old":                            {edit: func(_ *Handler, r *http.Request) { r.Header.Set(headerTimestamp, "1790000000") }, status: 401, want: ErrTooOld, unread: true},
		"signed with another secret":         {edit: func(h *Handler, _ *http.Request) { h.Secrets = secrets(t, whsec(otherKey)) }, status: 401, want: ErrSignature},
		"a handler without a secret":         {edit: func(h *Handler, _ *http.Request) { h.Secrets = Secrets{} }, status: 401, want: ErrSignature},
		"longer than allowed":                {edit: func(h *Handler, _ *http.Request) { h.MaxBody = 100 }, status: 413, want: errTooLong, unread: true},
		"longer than allowed, in chunks":     {edit: func(h *Handler, r *http.Request) { h.MaxBody, r.ContentLength = 100, -1 }, status: 413, want: errTooLong},
		"as long as allowed":                 {edit: func(h *Handler, _ *http.Request) { h.MaxBody = int64(len(envelopeText)) }, status: 200, deliver: true},
		"cut short":                          {edit: func(_ *Handler, r *http.Request) { r.Body = io.NopCloser(brokenBody{r.Body}) }, status: 400, want: errBody},
		"no JSON":                            {body: "x", status: 400, want: ErrMalformed},
		"no envelope":                        {body: "{}", status: 400, want: ErrMalformed},
		"an envelope that lacks something":   {body: strings.Replace(envelopeText, `"partition": 3,`, ``, 1), status: 400, want: ErrMalformed},
		"a lifecycle call that lacks one":    {body: strings.Replace(noticeText, `"topic":"a",`, ``, 1), status: 400, want: ErrMalformed},
		"of a type that nobody knows":        {body: strings.Replace(envelopeText, typeRecords, "kafka.tables", 1), status: 400, want: ErrType},
		"a test":                             {body: strings.Replace(envelopeText, typeRecords, typeTest, 1), status: 200},
		"a test that is unsigned":            {body: strings.Replace(envelopeText, typeRecords, typeTest, 1), edit: func(_ *Handler, r *http.Request) { r.Header.Del(headerSignature) }, status: 401, want: ErrUnsigned, unread: true},
		"a value that is no string":          {edit: func(h *Handler, _ *http.Request) { h.StringValues = true }, status: 400, want: ErrMalformed},
		"nothing to complain of":             {status: 200, deliver: true},
		"signing is off":                     {edit: func(h *Handler, r *http.Request) { h.Secrets = Unsigned(); r.Header = http.Header{} }, status: 200, deliver: true},
		"signed long ago, which is accepted": {edit: func(h *Handler, r *http.Request) { longAgo(t, h, r) }, status: 200, deliver: true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if tt.body == "" {
				tt.body = envelopeText
			}
			delivered := false
			h := &Handler{Secrets: secrets(t, whsec(ourKey)), Deliver: func(context.Context, *Delivery) (Ack, error) {
				delivered = true
				return Ack{}, nil
			}}
			r := post(t, tt.body)
			left := strings.NewReader(tt.body)
			r.Body = io.NopCloser(left)
			if tt.edit != nil {
				tt.edit(h, r)
			}
			w, reports := serve(h, r)
			if w.Code != tt.status || delivered != tt.deliver {
				t.Errorf("status %d, delivered: %v, want %d, %v", w.Code, delivered, tt.status, tt.deliver)
			}
			if tt.status == 405 && w.Header().Get("Allow") != http.MethodPost {
				t.Errorf("a 405 allows %q", w.Header().Get("Allow"))
			}
			if tt.unread && left.Len() != len(tt.body) {
				t.Error("it read the body of a request that it could have refused by its header")
			}
			if tt.want == nil && len(reports) > 0 || tt.want != nil && (len(reports) != 1 || !errors.Is(reports[0].err, tt.want) || reports[0].status != tt.status) {
				t.Errorf("reported %v, want %d %v", reports, tt.status, tt.want)
			}
			if got := strings.TrimSpace(w.Body.String()); tt.want != nil && got != http.StatusText(tt.status) {
				t.Errorf("the answer says %q", got)
			}
		})
	}
}

// longAgo signs r an hour ago, where h accepts two.
func longAgo(t *testing.T, h *Handler, r *http.Request) {
	at := time.Now().Add(-time.Hour)
	h.Tolerance = 2 * time.Hour
	r.Header = signed("dl_3kq9", at, v1(t, ourKey, "dl_3kq9", at, envelopeText))
}

// TestSecretsByWebhook: who knows the secret of one webhook must not be able to speak
// for another.
func TestSecretsByWebhook(t *testing.T) {
	broken := errors.New("the vault is closed")
	h := &Handler{
		Deliver: returning(Ack{}, nil),
		SecretsFor: func(_ context.Context, webhook string) (Secrets, error) {
			switch webhook {
			case "orders-to-billing":
				return secrets(t, whsec(ourKey)), nil
			case "another":
				return secrets(t, whsec(otherKey)), nil
			case "unsigned":
				return Unsigned(), nil
			case "broken":
				return Secrets{}, broken
			}
			return Secrets{}, nil
		},
	}
	tests := map[string]struct {
		webhook string // by the header
		key     []byte
		body    string // says that it is of orders-to-billing
		status  int
		want    error
	}{
		"its own secret":                       {"orders-to-billing", ourKey, envelopeText, 200, nil},
		"another's secret":                     {"orders-to-billing", otherKey, envelopeText, 401, ErrSignature},
		"another's name and secret":            {"another", otherKey, envelopeText, 401, errForeign},
		"the name of one that is not signed":   {"unsigned", otherKey, envelopeText, 401, errForeign},
		"the name of nobody":                   {"nobody", ourKey, envelopeText, 401, ErrSignature},
		"no name":                              {"", ourKey, envelopeText, 401, ErrSignature},
		"secrets that cannot be found out now": {"broken", ourKey, envelopeText, 500, broken},
		"a call in the name of another":        {"another", otherKey, strings.Replace(noticeText, `"orders"`, `"orders-to-billing"`, 1), 401, errForeign},
	}
	for name, tt := range tests {
		r, now := post(t, tt.body), time.Now()
		r.Header = signed("dl_1", now, v1(t, tt.key, "dl_1", now, tt.body))
		r.Header.Set("Kpush-Webhook", tt.webhook)
		w, reports := serve(h, r)
		if w.Code != tt.status {
			t.Errorf("%s: status %d, want %d", name, w.Code, tt.status)
		}
		if tt.want != nil && (len(reports) != 1 || !errors.Is(reports[0].err, tt.want)) {
			t.Errorf("%s: reported %v, want %v", name, reports, tt.want)
		}
	}
}

func TestLifecycleCalls(t *testing.T) {
	var got []*Notice
	failure := errors.New("not now")
	tests := map[string]struct {
		notify func(context.Context, *Notice) error
		status int
	}{
		"told":             {func(_ context.Context, n *Notice) error { got = append(got, n); return nil }, 200},
		"nobody asks":      {nil, 200},
		"it fails":         {func(context.Context, *Notice) error { return failure }, 500},
		"it panics":        {func(context.Context, *Notice) error { panic(failure) }, 500},
		"told once at all": {func(context.Context, *Notice) error { return nil }, 200},
	}
	for name, tt := range tests {
		w, _ := serve(&Handler{Secrets: secrets(t, whsec(ourKey)), Notify: tt.notify}, post(t, noticeText))
		if w.Code != tt.status || tt.status == 200 && w.Body.Len() > 0 {
			t.Errorf("%s: status %d, %q, want %d", name, w.Code, w.Body, tt.status)
		}
	}
	if len(got) != 1 || got[0].Type != PartitionsAssigned || got[0].ID != "dl_3kq9" || !slices.Equal(got[0].Partitions, []Partition{{"orders", 3}, {"a", 0}}) {
		t.Errorf("told %+v", got)
	}
}

// TestAbort: the panic by which net/http cuts a connection is none of ours.
func TestAbort(t *testing.T) {
	defer func() {
		if p := recover(); p != http.ErrAbortHandler {
			t.Errorf("recovered %v, want %v", p, http.ErrAbortHandler)
		}
	}()
	serve(&Handler{
		Secrets: secrets(t, whsec(ourKey)),
		Deliver: func(context.Context, *Delivery) (Ack, error) { panic(http.ErrAbortHandler) },
	}, post(t, envelopeText))
}

func TestTheContextIsTheRequests(t *testing.T) {
	type key struct{}
	r := post(t, envelopeText)
	r = r.WithContext(context.WithValue(r.Context(), key{}, "x"))
	serve(&Handler{
		Secrets: secrets(t, whsec(ourKey)),
		Deliver: func(ctx context.Context, _ *Delivery) (Ack, error) {
			if ctx.Value(key{}) != "x" {
				t.Error("Deliver has another context than its request")
			}
			return Ack{}, nil
		},
	}, r)
}
