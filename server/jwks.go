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
	"sync"
	"time"

	"github.com/kpush/kpush/server/api"
	"github.com/kpush/kpush/webhooks"
)

// publicKeysFor says for how long caches may keep the public keys: short beside any
// overlap that is worth its name.
const publicKeysFor = "public, max-age=300"

// keySetFor is for how long the key set is answered without another look at the webhooks,
// so that strangers who ask often, where there are many keys, cost little.
const keySetFor = time.Second

// keySet is the key set as it was made last. Safe for concurrent use.
type keySet struct {
	mu    sync.Mutex
	made  publicKeys
	until time.Time // it is answered
}

// get returns the key set, made anew if it is too old.
func (k *keySet) get(g Gateway, now time.Time) (publicKeys, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if now.Before(k.until) {
		return k.made, nil
	}
	keys, err := g.PublicKeys()
	if err != nil {
		return publicKeys{}, err
	}
	made, err := newPublicKeys(keys)
	if err == nil {
		k.made, k.until = made, now.Add(keySetFor)
	}
	return made, err
}

// GetPublicKeys tells anybody the public keys that sign deliveries.
func (o operations) GetPublicKeys(_ context.Context, r api.GetPublicKeysRequestObject) (api.GetPublicKeysResponseObject, error) {
	set, err := o.keySet.get(o.gateway, time.Now())
	if err != nil {
		return nil, err
	}
	set.ifNoneMatch = r.Params.IfNoneMatch
	return set, nil
}

// publicKeys is the answer with a key set.
type publicKeys struct {
	body        []byte
	tag         string
	ifNoneMatch *string
}

// newPublicKeys makes the set of some keys. They are ordered by their ids, so that the
// order tells nothing of webhooks.
func newPublicKeys(keys []webhooks.PublicKey) (publicKeys, error) {
	set := api.JWKS{Keys: make([]webhooks.JWK, len(keys))}
	for i, k := range keys {
		set.Keys[i] = k.JWK()
	}
	slices.SortFunc(set.Keys, func(a, b webhooks.JWK) int { return strings.Compare(a.KeyID, b.KeyID) })
	body, err := json.Marshal(set)
	if err != nil {
		return publicKeys{}, err
	}
	body = append(body, '\n')
	hash := sha256.Sum256(body)
	return publicKeys{body: body, tag: `"` + base64.RawURLEncoding.EncodeToString(hash[:16]) + `"`}, nil
}

// VisitGetPublicKeysResponse writes the key set, or that it is what the client has.
func (p publicKeys) VisitGetPublicKeysResponse(w http.ResponseWriter) error {
	h := w.Header()
	h.Set("Cache-Control", publicKeysFor)
	h.Set("ETag", p.tag)
	if p.ifNoneMatch != nil && noneMatch(*p.ifNoneMatch, p.tag) {
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
