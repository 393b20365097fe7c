package groupmanager

import (
	"context"
	"time"

	"github.com/kpush/kpush/webhooks"
)

// rotateRequest carries the new secret sealed: calls between replicas are
// authenticated and not encrypted.
type rotateRequest struct {
	webhookTarget
	Secret    []byte `json:"sealed_secret"` // for rotationContext
	OverlapMs int64  `json:"overlap_ms"`
}

// rotationContext is what a secret that goes to the leader is sealed for.
func rotationContext(t webhookTarget) string { return "rotate/" + t.Tenant + "/" + t.ID }

// RotateSecret gives a webhook new signing keys (webhooks.Registry.Rotate). Every
// replica signs with them as soon as it has read them; deliveries go on meanwhile,
// and the group does not notice. The same rotation again is safe. Errors besides
// those of Rotate are webhooks.ErrUnavailable when the leader could not be asked.
func (m *Manager) RotateSecret(ctx context.Context, tenant, id string, r webhooks.Rotation) (webhooks.Entry, error) {
	if err := r.Validate(); err != nil {
		return webhooks.Entry{}, err
	}
	in := rotateRequest{webhookTarget: webhookTarget{tenant, id}, OverlapMs: r.Overlap.Milliseconds()}
	var err error
	if in.Secret, err = m.cfg.Keys.SealCall(r.Secret, rotationContext(in.webhookTarget)); err != nil {
		return webhooks.Entry{}, err
	}
	c, err := lead(ctx, m, operationRotate, in, func(ctx context.Context) (change, error) { return m.rotate(ctx, in) })
	if err != nil {
		return webhooks.Entry{}, err
	}
	e, err := m.read(ctx, tenant, id, c)
	return m.withFailure(e), err
}

// rotate is RotateSecret at the leader.
func (m *Manager) rotate(ctx context.Context, in rotateRequest) (change, error) {
	secret, err := m.cfg.Keys.OpenCall(in.Secret, rotationContext(in.webhookTarget))
	if err != nil {
		return change{}, unavailable(err) // the two replicas have no key in common
	}
	r := webhooks.Rotation{Secret: secret, Overlap: time.Duration(in.OverlapMs) * time.Millisecond}
	e, err := m.registry.Rotate(ctx, in.Tenant, in.ID, r)
	return change{Revision: e.Revision, entry: e}, err
}

// PublicKeys are those that sign the requests of any webhook now, in no order. The
// error is webhooks.ErrUnavailable before the registry has been read.
func (m *Manager) PublicKeys() ([]webhooks.PublicKey, error) {
	return m.registry.PublicKeys(time.Now())
}
