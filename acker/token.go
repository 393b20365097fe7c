package acker

import (
	"crypto/hmac"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"math"
	"strings"
)

const (
	tokenVersion = 1
	tokenPurpose = "kpush ack token v1"
	maxTokenText = 4096 // characters of a token that Parse looks at
)

// ErrTokenInvalid means that a token was not minted with any of the keys.
var ErrTokenInvalid = errors.New("token is not valid")

// tokenEncoding refuses stray bits in the last character, so that a token has
// one spelling only.
var tokenEncoding = base64.RawURLEncoding.Strict()

// Token names one delivery of one tenure: the capability to ack it.
type Token struct {
	Tenant, Webhook string
	Topic           string
	Partition       int32
	Generation      int32  // of the attempt that carried it
	Tenure          uint64 // random, one per tenure: tells apart two tenures whose generations collide
	First, Last     int64  // offsets of the delivery, both inclusive
	Attempt         int32
	Owner           string // id of the replica that sent it; may be empty
}

// Tokens mints and checks tokens. The text of a token is the unpadded URL-safe
// base64 of
//
//	version byte, key id byte, fields, 16 bytes of HMAC-SHA256 over all before
//
// where the fields come in the order of Token: strings after their length as a
// uvarint, numbers as zigzag varints, Last as the distance from First, and
// Tenure as 8 bytes, big endian. A token is not secret from its holder and is
// not encrypted. Safe for concurrent use.
type Tokens struct {
	keys []*macKey // the first mints
}

// NewTokens returns Tokens that mint with the first key and accept tokens of
// all of them. It panics without a key, or with one shorter than 32 bytes.
func NewTokens(keys ...[]byte) *Tokens {
	if len(keys) == 0 {
		panic("acker: tokens need a key")
	}
	t := &Tokens{}
	for _, key := range keys {
		t.keys = append(t.keys, newMACKey(key, tokenPurpose))
	}
	return t
}

// Append appends the text of tok to dst. The four strings together should stay
// below 2,900 bytes: Parse refuses a token longer than 4096 characters.
func (t *Tokens) Append(dst []byte, tok *Token) []byte {
	key := t.keys[0]
	state := key.get()
	defer key.put(state)

	b := append(state.message, tokenVersion, key.id)
	b = appendString(b, tok.Tenant)
	b = appendString(b, tok.Webhook)
	b = appendString(b, tok.Topic)
	b = binary.AppendVarint(b, int64(tok.Partition))
	b = binary.AppendVarint(b, int64(tok.Generation))
	b = binary.BigEndian.AppendUint64(b, tok.Tenure)
	b = binary.AppendVarint(b, tok.First)
	b = binary.AppendVarint(b, tok.Last-tok.First)
	b = binary.AppendVarint(b, int64(tok.Attempt))
	b = appendString(b, tok.Owner)
	b = append(b, state.mac(b)...)
	state.message = b
	return tokenEncoding.AppendEncode(dst, b)
}

// Parse returns the token that s is the text of. Anything that was not minted
// with one of the keys, character for character, is ErrTokenInvalid.
func (t *Tokens) Parse(s string) (Token, error) {
	// The decoder skips line breaks; a token has none.
	if len(s) > maxTokenText || strings.ContainsAny(s, "\r\n") {
		return Token{}, ErrTokenInvalid
	}
	b, err := tokenEncoding.DecodeString(s)
	if err != nil || len(b) < 2+macSize || b[0] != tokenVersion {
		return Token{}, ErrTokenInvalid
	}
	message, mac := b[:len(b)-macSize], b[len(b)-macSize:]
	if !t.authentic(message, mac) {
		return Token{}, ErrTokenInvalid
	}
	return decodeToken(string(message[2:]))
}

// authentic says whether one of the keys made mac. A key id may be shared by
// two keys, so it only saves work.
func (t *Tokens) authentic(message, mac []byte) bool {
	for _, key := range t.keys {
		if key.id != message[1] {
			continue
		}
		state := key.get()
		equal := hmac.Equal(state.mac(message), mac)
		key.put(state)
		if equal {
			return true
		}
	}
	return false
}

// decodeToken reads the fields of a token, which keeps fields for its strings.
func decodeToken(fields string) (Token, error) {
	r := tokenReader{rest: fields}
	tok := Token{
		Tenant:     r.string(),
		Webhook:    r.string(),
		Topic:      r.string(),
		Partition:  r.int32(),
		Generation: r.int32(),
		Tenure:     r.uint64(),
		First:      r.varint(),
	}
	tok.Last = tok.First + r.varint()
	tok.Attempt = r.int32()
	tok.Owner = r.string()
	if r.bad || r.rest != "" {
		return Token{}, ErrTokenInvalid
	}
	return tok, nil
}

// tokenReader reads the fields of a token one after the other. Once bad it
// reads zeros.
type tokenReader struct {
	rest string
	bad  bool
}

func (r *tokenReader) take(n uint64) string {
	if r.bad || n > uint64(len(r.rest)) {
		r.bad = true
		return ""
	}
	head := r.rest[:n]
	r.rest = r.rest[n:]
	return head
}

func (r *tokenReader) uvarint() uint64 {
	head := r.rest[:min(len(r.rest), binary.MaxVarintLen64)]
	v, n := binary.Uvarint([]byte(head))
	if n <= 0 {
		r.bad = true
		return 0
	}
	r.take(uint64(n))
	return v
}

func (r *tokenReader) varint() int64 {
	u := r.uvarint()
	return int64(u>>1) ^ -int64(u&1)
}

func (r *tokenReader) int32() int32 {
	v := r.varint()
	if v < math.MinInt32 || v > math.MaxInt32 {
		r.bad = true
		return 0
	}
	return int32(v)
}

func (r *tokenReader) uint64() uint64 {
	head := r.take(8)
	if r.bad {
		return 0
	}
	return binary.BigEndian.Uint64([]byte(head))
}

func (r *tokenReader) string() string { return r.take(r.uvarint()) }

// appendString appends the length of s and s, so that two fields in a row can
// be read in one way only.
func appendString(b []byte, s string) []byte {
	b = binary.AppendUvarint(b, uint64(len(s)))
	return append(b, s...)
}
