package webhooks

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"
)

// Entry is a webhook as it stands in the registry.
type Entry struct {
	Webhook  Webhook
	Secret   []byte // signing secret, raw bytes
	Revision int64  // rises with every change of this id: the ETag

	// Private is of the key pair for signatures v1a; nil until they are asked for.
	Private ed25519.PrivateKey

	// Former are the keys before the current ones that sign beside them, the newest
	// first. Some of them may have ended.
	Former []FormerKey

	// Pinned is what each topic was when the webhook's start was pinned. It is nil
	// for a webhook that was stored by a build before version 2.
	Pinned map[string]Pinned
}

// Clone returns a webhook that shares no memory with w.
func (w Webhook) Clone() Webhook {
	w.Topics = slices.Clone(w.Topics)
	w.Labels = maps.Clone(w.Labels)
	w.Request.Headers = maps.Clone(w.Request.Headers)
	w.Format.Headers = slices.Clone(w.Format.Headers)
	w.StateReason = clonePointer(w.StateReason)
	w.DeadLetter.Topic = clonePointer(w.DeadLetter.Topic)
	w.Lifecycle = clonePointer(w.Lifecycle)
	w.TLS.CA = clonePointer(w.TLS.CA)
	w.TLS.ClientCertificate = clonePointer(w.TLS.ClientCertificate)
	w.TLS.ClientKey = clonePointer(w.TLS.ClientKey)
	w.Auth = w.Auth.clone()
	w.Signing.Schemes, w.Signing.PublicKeys = slices.Clone(w.Signing.Schemes), slices.Clone(w.Signing.PublicKeys)
	w.Filter = clonePointer(w.Filter)
	return w
}

func (e Entry) clone() Entry {
	e.Webhook = e.Webhook.Clone()
	e.Secret, e.Private = bytes.Clone(e.Secret), bytes.Clone(e.Private)
	e.Former = slices.Clone(e.Former)
	for i, k := range e.Former {
		e.Former[i] = k.clone()
	}
	e.Pinned = maps.Clone(e.Pinned)
	return e
}

func clonePointer[T string | Lifecycle](p *T) *T {
	if p == nil {
		return nil
	}
	return new(*p)
}

// sameContent tells whether two webhooks are alike in all that their owner sets.
func sameContent(a, b Webhook) bool {
	content := func(w Webhook) []byte {
		d := Default()
		w.Tenant, w.State, w.StateReason, w.CreatedAt, w.UpdatedAt = d.Tenant, d.State, d.StateReason, d.CreatedAt, d.UpdatedAt
		w.Signing.PublicKeys = nil
		data, err := json.Marshal(w)
		if err != nil {
			panic(fmt.Sprintf("webhooks: encoding a webhook: %v", err)) // only a NaN multiplier, which Validate refuses
		}
		return data
	}
	return bytes.Equal(content(a), content(b))
}

// Layouts of the values. Adding a field raises the version: an older build must
// not drop the field by writing the webhook back. Version 2 has pinned, and in the
// webhook lifecycle and patterns among the topics; version 3 has tls; version 4 has
// sealed_seed, former, and in the webhook filter, limits, on_undecodable, signing.schemes, auth,
// the client certificate of tls, the formats beside the envelope, and credentials sealed.
const (
	storedVersion  = 4 // what this build writes
	oldestReadable = 1
)

// stored is the value of a record of the registry.
type stored struct {
	Version int               `json:"version"`
	Webhook Webhook           `json:"webhook"`
	Secret  []byte            `json:"sealed_secret"`         // AES256-GCM, associated data is tenant/id
	Seed    []byte            `json:"sealed_seed,omitempty"` // the same; associated data is tenant/id#ed25519
	Former  []storedFormer    `json:"former,omitempty"`
	Pinned  map[string]Pinned `json:"pinned,omitempty"`

	// Credentials are those of the webhook, which has Mask in their place.
	Credentials []byte `json:"sealed_credentials,omitempty"`
}

// storedFormer is a FormerKey, sealed as the current keys are.
type storedFormer struct {
	Secret []byte    `json:"sealed_secret"`
	Seed   []byte    `json:"sealed_seed,omitempty"`
	Until  time.Time `json:"until"`
}

// Keys of records in the registry. A webhook's carries its tenant.
const (
	webhookPrefix = "webhook/"

	// markerKey belongs to no webhook: see Registry.settle.
	markerKey = "marker"
)

func key(tenant, id string) string { return webhookPrefix + tenant + "/" + id }

// owner is the associated data of a webhook's sealed secret.
func owner(w *Webhook) string { return w.Tenant + "/" + w.ID }

// encode makes the value of an entry's record; its revision is where that will stand.
func encode(e Entry, keys *Keys) ([]byte, error) {
	s, err := keys.sealEntry(e)
	if err != nil {
		return nil, err
	}
	if s.Webhook, s.Credentials, err = sealCredentials(e.Webhook, keys); err != nil {
		return nil, err
	}
	value, err := json.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("encoding webhook %s: %w", e.Webhook.ID, err)
	}
	return value, nil
}

// decodeEntry reads a record. What it cannot read whole it refuses: an entry half
// understood would be written back with a part missing. Beside the error for a
// secret that does not open it still tells the webhook.
func decodeEntry(recordKey string, value []byte, revision int64, keys *Keys) (Entry, error) {
	var version struct {
		Version int `json:"version"`
	}
	if err := json.Unmarshal(value, &version); err != nil {
		return Entry{}, errors.New("the value is not JSON of ours")
	}
	if v := version.Version; v < oldestReadable || v > storedVersion {
		return Entry{}, fmt.Errorf("the value has version %d, this build reads %d to %d", v, oldestReadable, storedVersion)
	}
	s := stored{Webhook: Default()}
	d := json.NewDecoder(bytes.NewReader(value))
	d.DisallowUnknownFields()
	if err := d.Decode(&s); err != nil {
		return Entry{}, errors.New("the value does not have the fields of its version")
	}
	if _, err := d.Token(); err != io.EOF {
		return Entry{}, errors.New("the value goes on after its end")
	}
	if key(s.Webhook.Tenant, s.Webhook.ID) != recordKey {
		return Entry{}, errors.New("the value belongs to another key")
	}
	e := Entry{Webhook: s.Webhook, Revision: revision, Pinned: s.Pinned}
	err := keys.openEntry(&e, s)
	if err == nil {
		err = openCredentials(&e.Webhook, s.Credentials, keys)
	}
	return e, err
}
