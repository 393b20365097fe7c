package webhooks

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
)

// PublicKey verifies signatures v1a.
type PublicKey ed25519.PublicKey

func publicKey(private ed25519.PrivateKey) PublicKey {
	return PublicKey(private.Public().(ed25519.PublicKey))
}

// String is the key as Standard Webhooks writes it: "whpk_" and base64.
func (k PublicKey) String() string {
	return "whpk_" + base64.StdEncoding.EncodeToString(k)
}

// JWK is a public key as RFC 7517 and RFC 8037 write it.
type JWK struct {
	KeyType   string `json:"kty"`
	Curve     string `json:"crv"`
	X         string `json:"x"` // the key in base64url without padding
	Algorithm string `json:"alg"`
	Use       string `json:"use"`
	KeyID     string `json:"kid"` // the key's thumbprint by RFC 7638, which tells nothing but the key
}

// JWK is the key for a JSON Web Key Set.
func (k PublicKey) JWK() JWK {
	x := base64.RawURLEncoding.EncodeToString(k)
	// RFC 7638, 3: the required members alone, ordered by name.
	thumbprint := sha256.Sum256([]byte(`{"crv":"Ed25519","kty":"OKP","x":"` + x + `"}`))
	return JWK{
		KeyType: "OKP", Curve: "Ed25519", X: x, Algorithm: "EdDSA", Use: "sig",
		KeyID: base64.RawURLEncoding.EncodeToString(thumbprint[:]),
	}
}
