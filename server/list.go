package server

import (
	"context"
	"encoding/base64"
	"strings"
	"time"

	"github.com/kpush/kpush/server/api"
	"github.com/kpush/kpush/webhooks"
)

const (
	defaultLimit = 50
	maxLimit     = 250
)

func (o operations) ListWebhooks(_ context.Context, r api.ListWebhooksRequestObject) (api.ListWebhooksResponseObject, error) {
	limit, err := parseLimit(r.Params.Limit)
	if err != nil {
		return nil, err
	}
	after, err := parseCursor(r.Params.Cursor)
	if err != nil {
		return nil, err
	}
	wanted, err := newFilter(r.Params)
	if err != nil {
		return nil, err
	}
	entries, err := o.gateway.List(tenant)
	if err != nil {
		return nil, err
	}
	page := api.WebhookList{Data: []api.Webhook{}}
	for _, e := range entries {
		if e.Webhook.ID <= after || !wanted.admits(e.Webhook) {
			continue
		}
		if len(page.Data) == limit {
			page.NextCursor = cursor(page.Data[limit-1].ID)
			break
		}
		page.Data = append(page.Data, e.Shown(time.Now()))
	}
	return api.ListWebhooks200JSONResponse{Body: page, Headers: api.ListWebhooks200ResponseHeaders{Age: o.age()}}, nil
}

// parseLimit returns how many a page has at most.
func parseLimit(l *int) (int, error) {
	if l == nil {
		return defaultLimit, nil
	}
	if *l < 1 || *l > maxLimit {
		return 0, invalid(inQuery("limit"), "must be from 1 to 250")
	}
	return *l, nil
}

// cursorVersion begins every cursor, so that later ones can hold something else.
const cursorVersion = "1:"

// cursor is the place after something in the order of a list: of a webhook after its
// id, of a partition after its place.
func cursor(place string) *string {
	return new(base64.RawURLEncoding.EncodeToString([]byte(cursorVersion + place)))
}

// parseCursor returns the place after which a page begins; no cursor is the beginning.
func parseCursor(c *string) (after string, err error) {
	if c == nil {
		return "", nil
	}
	text, err := base64.RawURLEncoding.DecodeString(*c)
	after, ours := strings.CutPrefix(string(text), cursorVersion)
	if err != nil || !ours {
		return "", errCursor
	}
	return after, nil
}

var errCursor = invalid(inQuery("cursor"), "must be a next_cursor as it was told")

// filter is what a list is narrowed by; a nil field narrows nothing.
type filter struct {
	topic  *string
	state  *api.WebhookState
	labels map[string]string
}

func newFilter(p api.ListWebhooksParams) (filter, error) {
	f := filter{topic: p.Topic, state: p.State, labels: map[string]string{}}
	if f.state != nil && !f.state.Valid() {
		return filter{}, invalid(inQuery("state"), "must be one of: active, paused, degraded, disabled, failed")
	}
	if p.Label == nil {
		return f, nil
	}
	for _, label := range *p.Label {
		name, value, ok := strings.Cut(label, ":")
		if !ok {
			return filter{}, invalid(inQuery("label"), "must be a name and a value, parted by a colon")
		}
		if old, twice := f.labels[name]; twice && old != value {
			return filter{}, invalid(inQuery("label"), "must not ask for two values of one name")
		}
		f.labels[name] = value
	}
	return f, nil
}

func (f filter) admits(w webhooks.Webhook) bool {
	if f.topic != nil && !w.Chooses(*f.topic) {
		return false
	}
	if f.state != nil && webhooks.State(*f.state) != w.State {
		return false
	}
	for name, value := range f.labels {
		if has, ok := w.Labels[name]; !ok || has != value {
			return false
		}
	}
	return true
}
