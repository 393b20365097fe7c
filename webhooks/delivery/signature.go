package delivery

import (
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"hash"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kpush/kpush/webhooks"
)

// Signer signs the requests of one webhook, by Standard Webhooks. Its keys can be
// exchanged while requests are sent: each attempt is signed with those that stand
// when its head is written. Safe for concurrent use.
type Signer struct {
	keys atomic.Pointer[signers] // nil: requests go unsigned
}

// NewSigner makes the signer of a webhook as it stands.
func NewSigner(e webhooks.Entry) *Signer {
	s := new(Signer)
	s.Set(e)
	return s
}

// Set has what is signed from now on signed as the webhook stands: by its schemes,
// with its keys and those of its former keys that have not ended yet.
func (s *Signer) Set(e webhooks.Entry) {
	if !e.Webhook.Signing.Enabled {
		s.keys.Store(nil)
		return
	}
	schemes := e.Webhook.Signing.Schemes
	set := &signers{current: schemesOf(schemes, e.Secret, e.Private)}
	for _, k := range e.Former {
		set.former = append(set.former, formerSigners{k.Until, schemesOf(schemes, k.Secret, k.Private)})
	}
	s.keys.Store(set)
}

// signers make the value of webhook-signature. Safe for concurrent use.
type signers struct {
	current []scheme
	former  []formerSigners // newest first
}

type formerSigners struct {
	until   time.Time
	schemes []scheme
}

// scheme makes signatures of one kind with one key. Safe for concurrent use.
type scheme interface {
	// append appends the kind, a comma and the base64 of the signature over
	// "id.timestamp.body". signed is "id.timestamp.".
	append(dst, signed, body []byte) []byte
}

// schemesOf are the schemes of a webhook with one of its keys. private is nil where
// there was no key pair yet.
func schemesOf(names []string, secret []byte, private ed25519.PrivateKey) []scheme {
	var schemes []scheme
	if slices.Contains(names, webhooks.SchemeV1) {
		schemes = append(schemes, newHMAC(secret))
	}
	if slices.Contains(names, webhooks.SchemeV1a) && private != nil {
		schemes = append(schemes, ed25519Scheme(private))
	}
	return schemes
}

// append appends the signatures of all keys that sign at a time, parted by spaces,
// those of newer keys first.
func (s *signers) append(dst []byte, at time.Time, signed, body []byte) []byte {
	start := len(dst)
	for _, c := range s.current {
		dst = append(c.append(dst, signed, body), ' ')
	}
	for _, f := range s.former {
		if !at.Before(f.until) {
			continue
		}
		for _, c := range f.schemes {
			dst = append(c.append(dst, signed, body), ' ')
		}
	}
	return dst[:max(start, len(dst)-1)]
}

// hmacScheme is v1, HMAC-SHA256. It keeps keyed states, so that a signature costs the
// hash of its body and no allocation.
type hmacScheme struct {
	pool sync.Pool // of *keyed
}

type keyed struct {
	mac hash.Hash
	sum [sha256.Size]byte
}

func newHMAC(secret []byte) *hmacScheme {
	return &hmacScheme{pool: sync.Pool{New: func() any {
		return &keyed{mac: hmac.New(sha256.New, secret)}
	}}}
}

func (s *hmacScheme) append(dst, signed, body []byte) []byte {
	g := s.pool.Get().(*keyed)
	g.mac.Reset()
	g.mac.Write(signed)
	g.mac.Write(body)
	dst = append(dst, "v1,"...)
	dst = base64.StdEncoding.AppendEncode(dst, g.mac.Sum(g.sum[:0]))
	s.pool.Put(g)
	return dst
}

// ed25519Scheme is v1a. Ed25519 reads what it signs twice, so it has to be in one
// piece.
type ed25519Scheme ed25519.PrivateKey

// pieces keeps the memory in which what is signed by Ed25519 is put together.
var pieces = sync.Pool{New: func() any { return new([]byte) }}

func (s ed25519Scheme) append(dst, signed, body []byte) []byte {
	piece := pieces.Get().(*[]byte)
	*piece = append(append((*piece)[:0], signed...), body...)
	signature := ed25519.Sign(ed25519.PrivateKey(s), *piece)
	if cap(*piece) > maxPooled {
		*piece = nil
	}
	pieces.Put(piece)
	return base64.StdEncoding.AppendEncode(append(dst, "v1a,"...), signature)
}
