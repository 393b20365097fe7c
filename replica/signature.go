package replica

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Headers of a call, and the last one of its answer too.
const (
	timeHeader      = "Kpush-Time"  // unix seconds
	nonceHeader     = "Kpush-Nonce" // 32 hexadecimal digits, never used twice
	signatureHeader = "Kpush-Signature"
)

const (
	// clockTolerance is how far the clocks of two replicas may be apart. What was
	// signed longer ago is refused, so that nonces can be forgotten.
	clockTolerance = time.Minute

	nonceBytes = 16

	// maxNonces bounds the nonces remembered: some 40 MB of them, enough for 8,000
	// calls a second. Only those of calls with a good signature get here.
	maxNonces = 1 << 20

	signatureVersion = "v1,"
)

// keys sign what replicas say to each other: the first signs, all of them verify.
type keys [][]byte

// What a signature is of. A signed answer is no call.
const (
	aCall    = "kpush internal call"
	anAnswer = "kpush internal answer"
)

// sign returns the signature of a body and of the words that go with it, none of
// which has a line break.
func (k keys) sign(what string, words []string, body []byte) string {
	return signatureVersion + base64.StdEncoding.EncodeToString(mac(k[0], what, words, body))
}

// verify tells whether one of the keys has made the signature.
func (k keys) verify(signature, what string, words []string, body []byte) bool {
	text, ok := strings.CutPrefix(signature, signatureVersion)
	got, err := base64.StdEncoding.DecodeString(text)
	if !ok || err != nil {
		return false
	}
	for _, key := range k {
		if hmac.Equal(got, mac(key, what, words, body)) {
			return true
		}
	}
	return false
}

func mac(key []byte, what string, words []string, body []byte) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(what + "\n" + strings.Join(words, "\n") + "\n"))
	h.Write(body)
	return h.Sum(nil)
}

// callWords are what is signed of a call besides its body. The replica it is meant
// for is among them: what was said to one cannot be said again to another, nor
// does a call count that went astray.
func callWords(to, method, path, seconds, nonce string) []string {
	return []string{to, method, path, seconds, nonce}
}

// answerWords are what is signed of an answer besides its body.
func answerWords(nonce string, status int) []string {
	return []string{nonce, strconv.Itoa(status)}
}

func newNonce() string {
	var n [nonceBytes]byte
	rand.Read(n[:]) // never fails
	return hex.EncodeToString(n[:])
}

// nonces remembers what was called lately, so that no call is taken twice. It is
// safe for concurrent use.
type nonces struct {
	max int

	mu    sync.Mutex
	count int
	seen  map[int64]map[[nonceBytes]byte]struct{} // by the minute of signing
}

func newNonces(max int) *nonces {
	return &nonces{max: max, seen: map[int64]map[[nonceBytes]byte]struct{}{}}
}

// nonceMinute is the width of a bucket of nonces, which are forgotten together.
const nonceMinute = 60

// add enters a nonce of a call signed at a time that is within clockTolerance of
// now; it returns false if it was there already, or if there is no room.
func (n *nonces) add(nonce [nonceBytes]byte, signed, now time.Time) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	oldest := now.Add(-clockTolerance).Unix() / nonceMinute
	for minute, those := range n.seen {
		if minute < oldest {
			n.count -= len(those)
			delete(n.seen, minute)
		}
	}
	minute := signed.Unix() / nonceMinute
	if _, used := n.seen[minute][nonce]; used || n.count >= n.max {
		return false
	}
	if n.seen[minute] == nil {
		n.seen[minute] = map[[nonceBytes]byte]struct{}{}
	}
	n.seen[minute][nonce] = struct{}{}
	n.count++
	return true
}
