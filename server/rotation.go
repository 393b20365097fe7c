package server

import (
	"context"
	"encoding/json"
	"time"

	"github.com/kpush/kpush/server/api"
	"github.com/kpush/kpush/webhooks"
)

// RotateSecret gives a webhook a new secret, which is answered this once.
func (o operations) RotateSecret(ctx context.Context, r api.RotateSecretRequestObject) (api.RotateSecretResponseObject, error) {
	rotation, err := decodeRotation(*r.Body)
	if err != nil {
		return nil, err
	}
	if rotation.Secret == nil {
		// Made here, so that the answer has the secret of this rotation also where
		// another comes right behind it.
		rotation.Secret = webhooks.NewSecret()
	}
	e, err := o.gateway.RotateSecret(ctx, tenant, r.ID, rotation)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	return api.RotateSecret200JSONResponse{
		Body: api.RotatedSecret{
			Secret:        webhooks.FormatSecret(rotation.Secret),
			PublicKeys:    e.Shown(now).Signing.PublicKeys,
			OverlapEndsAt: e.OverlapEnds(now),
		},
		Headers: api.RotateSecret200ResponseHeaders{ETag: etag(e.Revision)},
	}, nil
}

// decodeRotation reads how to rotate; without a secret there is none in the answer.
// Errors are *invalidError.
func decodeRotation(body json.RawMessage) (webhooks.Rotation, error) {
	o, err := readObject(body)
	if err != nil {
		return webhooks.Rotation{}, err
	}
	o.refuseBeside("overlap_ms", "secret")
	r := webhooks.Rotation{Overlap: webhooks.DefaultOverlap}
	if ms, ok := o.integer("overlap_ms", 0, webhooks.MaxOverlap.Milliseconds()); ok {
		r.Overlap = time.Duration(ms) * time.Millisecond
	}
	if text, ok := o.text("secret"); ok {
		if r.Secret, err = webhooks.ParseSecret(text); err != nil {
			o.complain("/secret", err.Error())
		}
	}
	return r, o.err()
}
