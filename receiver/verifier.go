package receiver

import (
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Headers of Standard Webhooks.
const (
	headerID        = "Webhook-Id"
	headerTimestamp = "Webhook-Timestamp"
	headerSignature = "Webhook-Signature"
)

const (
	// DefaultTolerance is how far a request's timestamp may be from our clock, by
	// Standard Webhooks.
	DefaultTolerance = 5 * time.Minute

	// maxSignatures bounds the signatures of a request that are looked at: one for
	// each key that signs, which are two while one is rotated. A forger does not get
	// more work out of us than that.
	maxSignatures = 16
)

// Why a request does not verify.
var (
	// ErrUnsigned means that webhook-id, webhook-timestamp or webhook-signature is
	// missing, there more than once, or not of its form.
	ErrUnsigned = errors.New("the request is not signed")

	// ErrTooOld and ErrTooNew mean that the request was signed longer ago, or later
	// from now, than the tolerance: it was held back or is played again, or a clock
	// is wrong.
	ErrTooOld = errors.New("the request's timestamp is too old")
	ErrTooNew = errors.New("the request's timestamp is in the future")

	// ErrSignature means that no signature of the request was made with any of the
	// secrets over this id, timestamp and body.
	ErrSignature = errors.New("no signature of the request is right")
)

// Verifier tells requests of the gateway from others, by Standard Webhooks. It is
// safe for concurrent use.
type Verifier struct {
	// Secrets are what the webhook's requests may be signed with. Required: without
	// any nothing verifies.
	Secrets Secrets

	// Tolerance is how far webhook-timestamp may be from our clock, either way.
	// Default 5m.
	Tolerance time.Duration
}

// Verify checks the signature of a request with this header and exactly these
// bytes as its body. Signed is "id.timestamp.body", as in webhook-id and
// webhook-timestamp; webhook-signature holds one or more signatures parted by
// spaces, "v1," and base64 (HMAC-SHA256) or "v1a," and base64 (Ed25519). One that is
// right is enough; those of other versions are passed over. Comparing takes the
// same time wherever a difference is.
//
// The error is ErrUnsigned, ErrTooOld, ErrTooNew or ErrSignature.
func (v Verifier) Verify(h http.Header, body []byte) error {
	if v.Secrets.unsigned {
		return nil
	}
	c, err := v.read(h)
	if err != nil {
		return err
	}
	return c.verify(v.Secrets, body)
}

// claim is what a request's header says of its signing.
type claim struct {
	signed     string // "id.timestamp."
	signatures []string
}

// read reads what can be refused without the body.
func (v Verifier) read(h http.Header) (claim, error) {
	id, okID := single(h, headerID)
	timestamp, okTimestamp := single(h, headerTimestamp)
	signatures := strings.Fields(strings.Join(h[headerSignature], " "))
	if !okID || !okTimestamp || len(signatures) == 0 {
		return claim{}, ErrUnsigned
	}
	// With a full stop in the id, or two spellings of a timestamp, one signed text
	// could be cut into id, timestamp and body in several ways.
	seconds, err := strconv.ParseInt(timestamp, 10, 64)
	if err != nil || strconv.FormatInt(seconds, 10) != timestamp || strings.Contains(id, ".") {
		return claim{}, ErrUnsigned
	}
	if err := v.timely(seconds); err != nil {
		return claim{}, err
	}
	return claim{
		signed:     id + "." + timestamp + ".",
		signatures: signatures[:min(len(signatures), maxSignatures)],
	}, nil
}

// single returns the value of a header that is there once and not empty.
func single(h http.Header, name string) (string, bool) {
	values := h[name]
	return h.Get(name), len(values) == 1 && values[0] != ""
}

func (v Verifier) timely(seconds int64) error {
	tolerance := v.Tolerance
	if tolerance <= 0 {
		tolerance = DefaultTolerance
	}
	// Compared as times: a difference of far away seconds would not fit a duration.
	now, at := time.Now(), time.Unix(seconds, 0)
	switch {
	case at.Before(now.Add(-tolerance)):
		return ErrTooOld
	case at.After(now.Add(tolerance)):
		return ErrTooNew
	}
	return nil
}

func (c claim) verify(secrets Secrets, body []byte) error {
	var symmetric, asymmetric []string
	for _, signature := range c.signatures {
		switch version, text, _ := strings.Cut(signature, ","); version {
		case "v1":
			symmetric = append(symmetric, text)
		case "v1a":
			asymmetric = append(asymmetric, text)
		}
	}
	if c.verifySymmetric(secrets.symmetric, symmetric, body) || c.verifyAsymmetric(secrets.public, asymmetric, body) {
		return nil
	}
	return ErrSignature
}

func (c claim) verifySymmetric(keys [][]byte, signatures []string, body []byte) bool {
	if len(signatures) == 0 {
		return false
	}
	for _, key := range keys {
		mac := hmac.New(sha256.New, key)
		mac.Write([]byte(c.signed))
		mac.Write(body)
		want := base64.StdEncoding.AppendEncode(nil, mac.Sum(nil))
		for _, signature := range signatures {
			if hmac.Equal(want, []byte(signature)) {
				return true
			}
		}
	}
	return false
}

func (c claim) verifyAsymmetric(keys []ed25519.PublicKey, signatures []string, body []byte) bool {
	if len(keys) == 0 || len(signatures) == 0 {
		return false
	}
	message := append([]byte(c.signed), body...)
	for _, text := range signatures {
		signature, err := decodeBase64(text)
		if err != nil || len(signature) != ed25519.SignatureSize {
			continue
		}
		for _, key := range keys {
			if ed25519.Verify(key, message, signature) {
				return true
			}
		}
	}
	return false
}
