package receiver

import (
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
)

const (
	secretPrefix = "whsec_" // an HMAC key, in base64
	publicPrefix = "whpk_"  // an Ed25519 public key, in base64

	// Bytes of an HMAC key, by Standard Webhooks.
	minSecret = 24
	maxSecret = 64
)

// ErrSecret means that a text is no secret and no public key of a webhook.
var ErrSecret = errors.New("not a secret or public key of a webhook")

// Secrets are the keys that requests may be signed with: while a secret is being
// rotated the old and the new one. The zero Secrets verify nothing. They are
// never printed, and safe for concurrent use.
type Secrets struct {
	symmetric [][]byte // HMAC-SHA256, v1
	public    []ed25519.PublicKey
	unsigned  bool
}

// ParseSecrets reads secrets as the gateway tells them: "whsec_" and the standard
// base64 of 24 to 64 bytes, for signatures v1, and public keys, "whpk_" and the
// base64 of 32 bytes, for signatures v1a. Space around them is dropped. Any other
// text, and none at all, is ErrSecret; no error repeats a text.
func ParseSecrets(texts ...string) (Secrets, error) {
	if len(texts) == 0 {
		return Secrets{}, fmt.Errorf("%w: there is none", ErrSecret)
	}
	var s Secrets
	for i, text := range texts {
		if err := s.add(strings.TrimSpace(text)); err != nil {
			return Secrets{}, fmt.Errorf("%w: number %d %w", ErrSecret, i+1, err)
		}
	}
	return s, nil
}

// Unsigned stands for the secret of a webhook whose signing is off: requests are
// taken without a look at their signature. Then something else has to tell who
// sends, such as client certificates or a network of its own.
func Unsigned() Secrets { return Secrets{unsigned: true} }

func (s *Secrets) add(text string) error {
	if rest, ok := strings.CutPrefix(text, secretPrefix); ok {
		key, err := decodeBase64(rest)
		if err != nil || len(key) < minSecret || len(key) > maxSecret {
			return fmt.Errorf("is not the base64 of %d to %d bytes", minSecret, maxSecret)
		}
		s.symmetric = append(s.symmetric, key)
		return nil
	}
	if rest, ok := strings.CutPrefix(text, publicPrefix); ok {
		key, err := decodeBase64(rest)
		if err != nil || len(key) != ed25519.PublicKeySize {
			return fmt.Errorf("is not the base64 of %d bytes", ed25519.PublicKeySize)
		}
		s.public = append(s.public, key)
		return nil
	}
	return fmt.Errorf("does not begin with %s or %s", secretPrefix, publicPrefix)
}

// Format writes how many they are, whatever the verb: secrets do not end up in logs.
func (s Secrets) Format(f fmt.State, _ rune) {
	fmt.Fprintf(f, "%d secrets", len(s.symmetric)+len(s.public))
}

// decodeBase64 reads standard base64 in the one spelling that there is for some
// bytes: the decoder would skip line breaks and stray bits.
func decodeBase64(text string) ([]byte, error) {
	if strings.ContainsAny(text, "\r\n") {
		return nil, base64.CorruptInputError(strings.IndexAny(text, "\r\n"))
	}
	return base64.StdEncoding.Strict().DecodeString(text)
}
