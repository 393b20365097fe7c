package webhooks

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Schemes of signatures, by Standard Webhooks.
const (
	SchemeV1  = "v1"  // HMAC-SHA256 with the webhook's secret
	SchemeV1a = "v1a" // Ed25519 with the webhook's key pair
)

// Signing of deliveries by Standard Webhooks.
type Signing struct {
	Enabled bool     `json:"enabled"`
	Schemes []string `json:"schemes"` // v1, v1a or both

	// PublicKeys verify what is signed by v1a. They stand in what Entry.Shown
	// returns, and are nil everywhere else: who signs is for the Entry to say.
	PublicKeys []string `json:"public_keys,omitzero"`
}

// asymmetric tells whether a key pair is needed.
func (s Signing) asymmetric() bool { return slices.Contains(s.Schemes, SchemeV1a) }

func checkSigning(c *complaints, pointer string, s Signing) {
	if len(s.Schemes) == 0 {
		c.add(pointer+"/schemes", "must be v1, v1a or both; to go unsigned set enabled to false")
	}
	for i, scheme := range s.Schemes {
		at := fmt.Sprintf("%s/schemes/%d", pointer, i)
		oneOf(c, at, scheme, SchemeV1, SchemeV1a)
		if slices.Contains(s.Schemes[:i], scheme) {
			c.add(at, "is a duplicate")
		}
	}
}

// FormerKey is what a webhook's requests were signed with before a rotation. It
// signs beside the keys that came after it until its time is over.
type FormerKey struct {
	Secret  []byte
	Private ed25519.PrivateKey // nil if there was none
	Until   time.Time
}

// Ended tells whether the key signs no more at a time.
func (k FormerKey) Ended(at time.Time) bool { return !at.Before(k.Until) }

func (k FormerKey) clone() FormerKey {
	k.Secret, k.Private = bytes.Clone(k.Secret), bytes.Clone(k.Private)
	return k
}

// maxFormer bounds the keys that sign beside the current ones; a rotation drops the
// oldest. All signatures together fit what receivers look at.
const maxFormer = 3

// PublicKeys are those of the key pairs that sign the webhook's requests at a time,
// the newest first. There are none unless it signs by v1a.
func (e Entry) PublicKeys(at time.Time) []PublicKey {
	if s := e.Webhook.Signing; !s.Enabled || !s.asymmetric() || e.Private == nil {
		return nil
	}
	keys := []PublicKey{publicKey(e.Private)}
	for _, k := range e.Former {
		if k.Private != nil && !k.Ended(at) {
			keys = append(keys, publicKey(k.Private))
		}
	}
	return keys
}

// OverlapEnds is when the last of the former keys ends; nil if none signs at a time.
func (e Entry) OverlapEnds(at time.Time) *time.Time {
	var ends *time.Time
	for _, k := range e.Former {
		if !k.Ended(at) && (ends == nil || k.Until.After(*ends)) {
			ends = new(k.Until)
		}
	}
	return ends
}

// Shown is the webhook as it may be shown: credentials are masked, and the public
// keys are those that sign at a time.
func (e Entry) Shown(at time.Time) Webhook {
	w := e.Webhook.Masked()
	w.Signing.PublicKeys = []string{}
	for _, k := range e.PublicKeys(at) {
		w.Signing.PublicKeys = append(w.Signing.PublicKeys, k.String())
	}
	return w
}

const (
	// Bytes of a signing secret, by Standard Webhooks.
	minSecret = 24
	maxSecret = 64

	secretPrefix = "whsec_"
)

// FormatSecret is how a webhook's signing secret is told to people, by Standard
// Webhooks: "whsec_" and base64.
func FormatSecret(secret []byte) string {
	return secretPrefix + base64.StdEncoding.EncodeToString(secret)
}

// ParseSecret reads what FormatSecret writes, of 24 to 64 bytes. The error completes
// "<field> ..." and does not repeat the text.
func ParseSecret(text string) ([]byte, error) {
	coded, ok := strings.CutPrefix(text, secretPrefix)
	secret, err := base64.StdEncoding.Strict().DecodeString(coded)
	if !ok || err != nil || strings.ContainsAny(coded, "\r\n") || checkSecret(secret) != nil {
		return nil, errSecret
	}
	return secret, nil
}

var errSecret = errors.New("must be whsec_ and the standard base64 of 24 to 64 bytes")

func checkSecret(secret []byte) error {
	if len(secret) < minSecret || len(secret) > maxSecret {
		return errSecret
	}
	return nil
}

// NewSecret makes a signing secret.
func NewSecret() []byte {
	secret := make([]byte, secretSize)
	rand.Read(secret) // never fails: crypto/rand ends the process instead
	return secret
}

// newPrivate makes the private key of a pair.
func newPrivate() ed25519.PrivateKey {
	seed := make([]byte, ed25519.SeedSize)
	rand.Read(seed)
	return ed25519.NewKeyFromSeed(seed)
}
