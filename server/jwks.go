package server

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"slices"
	"strings"

	"github.com/kpush/kpush/server/api"
	"github.com/kpush/kpush/webhooks"
)

// publicKeysFor says for how long caches may keep the public keys: short beside any
// overlap that is worth its name.
const publicKeysFor = "public, max-age=300"

// GetPublicKeys tells anybody the public keys that sign deliveries. They are ordered
// by their ids, so that the order tells nothing of webhooks.
func (o operations) GetPublicKeys(_ context.Context, r api.GetPublicKeysRequestObject) (api.GetPublicKeysResponseObject, error) {
	keys, err := o.gateway.PublicKeys()
	if err != nil {
		return nil, err
	}
	set := api.JWKS{Keys: make([]webhooks.JWK, len(keys))}
	for i, k := range keys {
		set.Keys[i] = k.JWK()
	}
	slices.SortFunc(set.Keys, func(a, b webhooks.JWK) int { return strings.Compare(a.KeyID, b.KeyID) })
	body, err := json.Marshal(set)
	if err != nil {
		return nil, err
	}
	return publicKeys{body: append(body, '\n'), ifNoneMatch: r.Params.IfNoneMatch}, nil
}

// publicKeys is the answer with a key set.
type publicKeys struct {
	body        []byte
	ifNoneMatch *string
}

// VisitGetPublicKeysResponse writes the key set, or that it is what the client has.
func (p publicKeys) VisitGetPublicKeysResponse(w http.ResponseWriter) error {
	hash := sha256.Sum256(p.body)
	tag := `"` + base64.RawURLEncoding.EncodeToString(hash[:16]) + `"`
	h := w.Header()
	h.Set("Cache-Control", publicKeysFor)
	h.Set("ETag", tag)
	if p.ifNoneMatch != nil && noneMatch(*p.ifNoneMatch, tag) {
		w.WriteHeader(http.StatusNotModified)
		return nil
	}
	h.Set("Content-Type", "application/jwk-set+json")
	_, err := bytes.NewReader(p.body).WriteTo(w)
	return err
}

// noneMatch tells whether an If-None-Match names a tag, by the weak comparison of RFC
// 9110, 13.1.2.
func noneMatch(header, tag string) bool {
	for candidate := range strings.SplitSeq(header, ",") {
		if c := strings.TrimPrefix(strings.TrimSpace(candidate), "W/"); c == tag || c == "*" {
			return true
		}
	}
	return false
}
