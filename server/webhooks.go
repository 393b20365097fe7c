package server

import (
	"context"
	"errors"
	"net/url"
	"time"

	"github.com/kpush/kpush/server/api"
	"github.com/kpush/kpush/webhooks"
)

func (o operations) CreateWebhook(ctx context.Context, r api.CreateWebhookRequestObject) (api.CreateWebhookResponseObject, error) {
	w, err := webhooks.Decode(*r.Body, "")
	if err != nil {
		return nil, err
	}
	e, err := o.gateway.Create(ctx, w)
	if err != nil {
		return nil, &creationError{w.ID, err}
	}
	return api.CreateWebhook201JSONResponse{WebhookCreatedJSONResponse: created(e)}, nil
}

func (o operations) GetWebhook(_ context.Context, r api.GetWebhookRequestObject) (api.GetWebhookResponseObject, error) {
	e, err := o.gateway.Get(tenant, r.ID)
	if err != nil {
		return nil, err
	}
	return api.GetWebhook200JSONResponse{
		Body:    e.Shown(time.Now()),
		Headers: api.GetWebhook200ResponseHeaders{Age: o.age(), ETag: etag(e.Revision)},
	}, nil
}

// leastAge is the age from which an answer tells it. A replica that is not cut off
// hears from Kafka more often.
const leastAge = 5 * time.Second

// age is for the header Age, in seconds; nil while there is no need to tell it.
func (o operations) age() *int {
	age := o.gateway.Age()
	if age < leastAge {
		return nil
	}
	return new(int(age / time.Second))
}

func (o operations) PutWebhook(ctx context.Context, r api.PutWebhookRequestObject) (api.PutWebhookResponseObject, error) {
	w, err := webhooks.Decode(*r.Body, r.ID)
	if err != nil {
		return nil, err
	}
	e, isNew, err := o.put(ctx, w, r.Params.IfMatch)
	if err != nil {
		return nil, err
	}
	if isNew {
		return api.PutWebhook201JSONResponse{WebhookCreatedJSONResponse: created(e)}, nil
	}
	return api.PutWebhook200JSONResponse{WebhookReadJSONResponse: standing(e)}, nil
}

// put makes an If-Match that leaves room into tries with one revision each.
func (o operations) put(ctx context.Context, w webhooks.Webhook, ifMatch *string) (webhooks.Entry, bool, error) {
	if ifMatch == nil {
		return o.gateway.Put(ctx, w, nil)
	}
	revisions, err := parseIfMatch(*ifMatch)
	if err != nil {
		return webhooks.Entry{}, false, err
	}
	// Whether a revision stands is not for us to say: what we read may be behind
	// what another replica has told the client.
	for _, revision := range revisions {
		e, isNew, err := o.gateway.Put(ctx, w, &revision)
		if !errors.Is(err, webhooks.ErrPrecondition) {
			return e, isNew, err
		}
	}
	return webhooks.Entry{}, false, webhooks.ErrPrecondition
}

func (o operations) DeleteWebhook(ctx context.Context, r api.DeleteWebhookRequestObject) (api.DeleteWebhookResponseObject, error) {
	offsets := false
	if p := r.Params.Offsets; p != nil {
		switch *p {
		case api.DeleteWebhookParamsOffsetsDelete:
			offsets = true
		case api.DeleteWebhookParamsOffsetsKeep:
		default:
			return nil, invalid(inQuery("offsets"), "must be one of: keep, delete")
		}
	}
	if err := o.gateway.Delete(ctx, tenant, r.ID, offsets); err != nil {
		return nil, err
	}
	return api.DeleteWebhook204Response{}, nil
}

func (o operations) PauseWebhook(ctx context.Context, r api.PauseWebhookRequestObject) (api.PauseWebhookResponseObject, error) {
	e, err := o.gateway.Pause(ctx, tenant, r.ID)
	if err != nil {
		return nil, err
	}
	return api.PauseWebhook200JSONResponse{WebhookReadJSONResponse: standing(e)}, nil
}

func (o operations) ResumeWebhook(ctx context.Context, r api.ResumeWebhookRequestObject) (api.ResumeWebhookResponseObject, error) {
	e, err := o.gateway.Resume(ctx, tenant, r.ID)
	if err != nil {
		return nil, err
	}
	return api.ResumeWebhook200JSONResponse{WebhookReadJSONResponse: standing(e)}, nil
}

// standing is the answer that shows a webhook; it has no secret.
func standing(e webhooks.Entry) api.WebhookReadJSONResponse {
	return api.WebhookReadJSONResponse{
		Body:    e.Shown(time.Now()),
		Headers: api.WebhookReadResponseHeaders{ETag: etag(e.Revision)},
	}
}

// created is the answer that shows a new webhook, and its secret this once.
func created(e webhooks.Entry) api.WebhookCreatedJSONResponse {
	return api.WebhookCreatedJSONResponse{
		Body: api.CreatedWebhook{Webhook: e.Shown(time.Now()), Secret: webhooks.FormatSecret(e.Secret)},
		Headers: api.WebhookCreatedResponseHeaders{
			ETag:     etag(e.Revision),
			Location: "/v1/webhooks/" + url.PathEscape(e.Webhook.ID),
		},
	}
}
