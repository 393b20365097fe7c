package webhooks

import (
	"bytes"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/tink-crypto/tink-go/v2/aead/subtle"
	"github.com/tink-crypto/tink-go/v2/tink"
)

const (
	keySize    = 32 // of the installation's keys and all that is derived from them
	secretSize = 32 // of a webhook's signing secret

	loopMarkerSize = 16 // in bytes, twice as many digits
)

// Keys is the installation's key ring: the first key seals, all of them open.
// To rotate, put a new key in front and keep the old one until every webhook has
// been written anew. It is safe for concurrent use.
type Keys struct {
	keys  [][]byte
	seals []tink.AEAD // AES256-GCM under a subkey of each key, in the same order
}

// NewKeys makes a ring from one or more keys of 32 bytes in standard base64. No
// error repeats a key.
func NewKeys(b64 ...string) (*Keys, error) {
	if len(b64) == 0 {
		return nil, errors.New("no secret key is given: make one with `openssl rand -base64 32`")
	}
	k := &Keys{}
	for i, text := range b64 {
		key, err := base64.StdEncoding.DecodeString(text)
		if err != nil || len(key) != keySize {
			return nil, fmt.Errorf("secret key %d is not %d bytes in base64: make one with `openssl rand -base64 32`", i+1, keySize)
		}
		for j, other := range k.keys {
			if bytes.Equal(other, key) {
				return nil, fmt.Errorf("secret key %d is the same as key %d", i+1, j+1)
			}
		}
		k.keys = append(k.keys, key)
	}
	for _, key := range k.Derive("registry secrets v1") {
		seal, err := subtle.NewAESGCM(key)
		if err != nil {
			return nil, fmt.Errorf("making the cipher of the registry: %w", err)
		}
		k.seals = append(k.seals, seal)
	}
	return k, nil
}

// Derive returns one 32-byte subkey per key of the ring, in the ring's order, by
// HKDF-SHA256. Subkeys of different labels tell nothing about each other.
func (k *Keys) Derive(label string) [][]byte {
	subkeys := make([][]byte, len(k.keys))
	for i, key := range k.keys {
		subkey, err := hkdf.Key(sha256.New, key, nil, "kpush "+label, keySize)
		if err != nil {
			panic(fmt.Sprintf("webhooks: deriving a key: %v", err)) // only for lengths beyond 8,160 bytes
		}
		subkeys[i] = subkey
	}
	return subkeys
}

// LoopMarkers are by what the installation knows its own requests when they come
// back to it, one per key of the ring: the first goes out with each of them. They
// are no secret.
func (k *Keys) LoopMarkers() []string {
	var markers []string
	for _, subkey := range k.Derive("loop-marker") {
		markers = append(markers, hex.EncodeToString(subkey[:loopMarkerSize]))
	}
	return markers
}

// seal encrypts a secret; context says whose it is and has to be the same at open.
func (k *Keys) seal(secret []byte, context string) ([]byte, error) {
	sealed, err := k.seals[0].Encrypt(secret, []byte(context))
	if err != nil {
		return nil, fmt.Errorf("sealing a secret: %w", err)
	}
	return sealed, nil
}

var errUnsealable = errors.New("the secret was sealed with a key that is not in the key ring, for another webhook, or is damaged")

func (k *Keys) open(sealed []byte, context string) ([]byte, error) {
	for _, seal := range k.seals {
		if secret, err := seal.Decrypt(sealed, []byte(context)); err == nil {
			return secret, nil
		}
	}
	return nil, errUnsealable
}

// SealCall encrypts a secret that goes from one replica to another; OpenCall opens
// it there, with the same context.
func (k *Keys) SealCall(secret []byte, context string) ([]byte, error) {
	return k.seal(secret, callContext+context)
}

// OpenCall opens what SealCall has sealed with any key of the ring.
func (k *Keys) OpenCall(sealed []byte, context string) ([]byte, error) {
	return k.open(sealed, callContext+context)
}

// callContext tells what was sealed for a call from what is sealed for the registry,
// whose contexts begin with a tenant.
const callContext = "#call/"
