package gatewaytest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"testing"
	"time"
)

// API is a client of a gateway's API. Methods may be called concurrently.
type API struct {
	Base  string // http://host:port
	Token string // bearer; empty: none is sent

	client http.Client
}

// NewAPI makes a client.
func NewAPI(base, token string) *API {
	return &API{Base: base, Token: token, client: http.Client{Timeout: 2 * time.Minute}}
}

// Reply is an answer of the API.
type Reply struct {
	Status int
	Header http.Header
	Body   []byte
}

// Into decodes the body.
func (r *Reply) Into(t testing.TB, v any) {
	t.Helper()
	if err := json.Unmarshal(r.Body, v); err != nil {
		t.Fatalf("decoding an answer %d: %v\n%s", r.Status, err, r.Body)
	}
}

// Call makes one request. A body that is a string or bytes goes as it is, anything else as JSON; nil is none.
func (a *API) Call(ctx context.Context, method, path string, body any, headers ...string) (*Reply, error) {
	var reader io.Reader
	switch b := body.(type) {
	case nil:
	case string:
		reader = bytes.NewReader([]byte(b))
	case []byte:
		reader = bytes.NewReader(b)
	default:
		encoded, err := json.Marshal(b)
		if err != nil {
			return nil, err
		}
		reader = bytes.NewReader(encoded)
	}
	req, err := http.NewRequestWithContext(ctx, method, a.Base+path, reader)
	if err != nil {
		return nil, err
	}
	if reader != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if a.Token != "" {
		req.Header.Set("Authorization", "Bearer "+a.Token)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := a.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	return &Reply{resp.StatusCode, resp.Header, answer}, nil
}

// Must makes one request and fails the test unless the answer has the status.
func (a *API) Must(t testing.TB, status int, method, path string, body any, headers ...string) *Reply {
	t.Helper()
	reply, err := a.Call(context.WithoutCancel(t.Context()), method, path, body, headers...)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	if reply.Status != status {
		t.Fatalf("%s %s answered %d, want %d: %s", method, path, reply.Status, status, reply.Body)
	}
	return reply
}

// Webhook is what tests need of the webhook resource.
type Webhook struct {
	ID          string  `json:"id"`
	GroupID     string  `json:"group_id"`
	State       string  `json:"state"`
	StateReason *string `json:"state_reason"`
	Secret      string  `json:"secret"` // only in the answer that created it
}

// Register creates a webhook under a client-chosen id; spec holds the fields of
// the resource that are not to have their default.
func (a *API) Register(t testing.TB, id string, spec map[string]any) Webhook {
	t.Helper()
	var w Webhook
	a.Must(t, http.StatusCreated, http.MethodPut, "/v1/webhooks/"+id, spec).Into(t, &w)
	return w
}

// Webhook reads one.
func (a *API) Webhook(t testing.TB, id string) Webhook {
	t.Helper()
	var w Webhook
	a.Must(t, http.StatusOK, http.MethodGet, "/v1/webhooks/"+id, nil).Into(t, &w)
	return w
}

// PartitionRow is one row of /partitions.
type PartitionRow struct {
	Topic           string  `json:"topic"`
	Partition       int32   `json:"partition"`
	Owner           *string `json:"owner"`
	Generation      int32   `json:"generation"`
	State           string  `json:"state"`
	CommittedOffset *int64  `json:"committed_offset"`
	DeliveredOffset *int64  `json:"delivered_offset"`
	EndOffset       *int64  `json:"end_offset"`
	Lag             *int64  `json:"lag"`
	InFlight        int     `json:"in_flight"`
	Attempt         int     `json:"attempt"`
	LastError       *struct {
		Code   string `json:"code"`
		Status *int   `json:"status"`
	} `json:"last_error"`
}

// Partitions reads the rows of a webhook, page by page.
func (a *API) Partitions(t testing.TB, id string) []PartitionRow {
	t.Helper()
	var rows []PartitionRow
	for query := "?limit=250"; ; {
		var page struct {
			Data       []PartitionRow `json:"data"`
			NextCursor *string        `json:"next_cursor"`
		}
		a.Must(t, http.StatusOK, http.MethodGet, "/v1/webhooks/"+id+"/partitions"+query, nil).Into(t, &page)
		rows = append(rows, page.Data...)
		if page.NextCursor == nil {
			return rows
		}
		query = "?limit=250&cursor=" + *page.NextCursor
	}
}

// AckReply is the answer to an ack: a result, or a problem with its code.
type AckReply struct {
	Status            int
	Result            string     `json:"result"`
	Code              string     `json:"code"`
	CommittedOffset   *int64     `json:"committed_offset"`
	BlockedByOffset   *int64     `json:"blocked_by_offset"`
	Generation        *int32     `json:"generation"`
	CurrentGeneration *int32     `json:"current_generation"`
	Deadline          *time.Time `json:"deadline"`
	RetryAfter        string     `json:"-"`
}

// Ack posts one statement; wait is commit, accept, or empty for the default.
func (a *API) Ack(ctx context.Context, body any, wait string) (AckReply, error) {
	path := "/ack"
	if wait != "" {
		path += "?wait=" + wait
	}
	reply, err := a.Call(ctx, http.MethodPost, path, body)
	if err != nil {
		return AckReply{}, err
	}
	out := AckReply{}
	if err := json.Unmarshal(reply.Body, &out); err != nil {
		return AckReply{}, fmt.Errorf("decoding the answer %d to an ack: %w", reply.Status, err)
	}
	out.Status, out.RetryAfter = reply.Status, reply.Header.Get("Retry-After")
	return out, nil
}

// AckDelivery acks a delivery by its token, up to an offset, and enters the answer
// in the receiver's ledger, and the ack unless it was refused. An ack without an
// answer may have counted and is entered, too.
func (a *API) AckDelivery(ctx context.Context, r *Receiver, d *Delivery, upTo int64, wait string) (AckReply, error) {
	body := map[string]any{"token": d.Token}
	if upTo < d.Last() {
		body["up_to_offset"] = upTo
	}
	return a.ackNoted(ctx, r, d, upTo, body, wait)
}

// AckFields acks a delivery by its fields, as AckDelivery does by its token.
func (a *API) AckFields(ctx context.Context, r *Receiver, d *Delivery, wait string) (AckReply, error) {
	return a.ackNoted(ctx, r, d, d.Last(), map[string]any{
		"webhook_id": d.Webhook, "topic": d.Partition.Topic, "partition": d.Partition.ID,
		"generation": d.Generation, "offset": d.Last(),
	}, wait)
}

func (a *API) ackNoted(ctx context.Context, r *Receiver, d *Delivery, upTo int64, body any, wait string) (AckReply, error) {
	sent := time.Now()
	reply, err := a.Ack(ctx, body, wait)
	if err != nil || reply.Status < 300 {
		r.Acked(Ack{Webhook: d.Webhook, Partition: d.Partition, First: d.First(), Last: upTo, At: sent})
	}
	if err == nil {
		r.AckAnswered(AckAnswer{
			Webhook: d.Webhook, Partition: d.Partition, First: d.First(), Last: upTo, Generation: d.Generation,
			Sent: sent, At: time.Now(), Status: reply.Status, Result: reply.Result, Code: reply.Code,
		})
	}
	return reply, err
}
