package acker

import (
	"crypto/hmac"
	"crypto/sha256"
	"hash"
	"sync"
)

const (
	minKeySize = 32 // bytes of a secret
	macSize    = 16 // bytes kept of a MAC: 128 bits
)

// macKey computes truncated HMAC-SHA256 under one subkey. It keeps keyed hash
// states, because setting one up costs more than a short message does. Safe for
// concurrent use.
type macKey struct {
	id     byte // tells which key made a token; keys may share one
	states sync.Pool
}

// macState is what one computation needs. What is written to message is
// authenticated as a whole.
type macState struct {
	hash    hash.Hash
	message []byte
	sum     [sha256.Size]byte
}

// newMACKey derives the subkey of secret for one purpose, so that nothing made
// for one purpose is ever good for another. It panics if the secret is shorter
// than 32 bytes; the configuration refuses those.
func newMACKey(secret []byte, purpose string) *macKey {
	if len(secret) < minKeySize {
		panic("acker: a key must have at least 32 bytes")
	}
	derive := hmac.New(sha256.New, secret)
	derive.Write([]byte(purpose))
	subkey := derive.Sum(nil)
	derive.Reset()
	derive.Write([]byte(purpose + " key id"))
	return &macKey{
		id: derive.Sum(nil)[0],
		states: sync.Pool{New: func() any {
			return &macState{hash: hmac.New(sha256.New, subkey)}
		}},
	}
}

func (k *macKey) get() *macState {
	s := k.states.Get().(*macState)
	s.message = s.message[:0]
	return s
}

func (k *macKey) put(s *macState) { k.states.Put(s) }

// mac returns the MAC of message, valid until the state is put back.
func (s *macState) mac(message []byte) []byte {
	s.hash.Reset()
	s.hash.Write(message)
	return s.hash.Sum(s.sum[:0])[:macSize]
}
