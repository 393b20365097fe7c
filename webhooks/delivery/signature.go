package delivery

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"hash"
	"sync"
)

// signers makes Standard Webhooks v1 signatures with one key. It keeps keyed
// states, so that a signature costs the hash of its body and no allocation. Safe
// for concurrent use.
type signers struct {
	pool sync.Pool // of *signer
}

type signer struct {
	mac hash.Hash
	sum [sha256.Size]byte
}

func newSigners(secret []byte) *signers {
	return &signers{pool: sync.Pool{New: func() any {
		return &signer{mac: hmac.New(sha256.New, secret)}
	}}}
}

// append appends the value of webhook-signature: "v1," and the base64 of the
// HMAC-SHA256 over "id.timestamp.body". signed is "id.timestamp.".
func (s *signers) append(dst, signed, body []byte) []byte {
	g := s.pool.Get().(*signer)
	g.mac.Reset()
	g.mac.Write(signed)
	g.mac.Write(body)
	dst = append(dst, "v1,"...)
	dst = base64.StdEncoding.AppendEncode(dst, g.mac.Sum(g.sum[:0]))
	s.pool.Put(g)
	return dst
}
