package delivery

import (
	"encoding/binary"
	"math/bits"
	"strings"
	"unicode/utf8"
)

// maxNesting is how deep objects and arrays may be nested in a value that is
// embedded as JSON: the limit of encoding/json, less the levels that the envelope
// adds, or a receiver in Go could not read the whole. A deeper value goes as base64.
const maxNesting = 10_000 - 3

// validator tells values that can stand in the envelope as they are. Its memory
// is reused from value to value; it is not safe for concurrent use.
type validator struct {
	outer [maxNesting/64 + 1]uint64 // a bit per open level: whether the one around it is an object
}

// embeddable reports whether b is a JSON text in UTF-8 that can stand unchanged
// as a record's value: any but null, which is how a tombstone is told.
func (v *validator) embeddable(b []byte) bool {
	i := skipSpace(b, 0)
	return i < len(b) && b[i] != 'n' && v.valid(b, i)
}

// valid reports whether b is one JSON text in UTF-8 from i on. It is what
// json.Valid and utf8.Valid say together of an envelope that holds it.
func (v *validator) valid(b []byte, i int) bool {
	depth, object := 0, false // object: the innermost open level is one
	for {
		// Here a value is due.
		i = skipSpace(b, i)
		if i == len(b) {
			return false
		}
		switch c := b[i]; c {
		case '{', '[':
			if depth == maxNesting {
				return false
			}
			i = skipSpace(b, i+1)
			if i == len(b) {
				return false
			}
			if b[i] == c+2 { // '}' and ']' stand two after '{' and '['
				i++
				break // an empty one is a whole value
			}
			v.push(depth, object)
			depth++
			if object = c == '{'; object {
				if i = keyEnd(b, i); i < 0 {
					return false
				}
			}
			continue
		case '"':
			i = stringEnd(b, i+1)
		case 't':
			i = literalEnd(b, i, "true")
		case 'f':
			i = literalEnd(b, i, "false")
		case 'n':
			i = literalEnd(b, i, "null")
		default:
			i = numberEnd(b, i)
		}
		if i < 0 {
			return false
		}

		// Here a value has ended: close what it closes.
		for {
			i = skipSpace(b, i)
			if depth == 0 || i == len(b) {
				return depth == 0 && i == len(b)
			}
			c := b[i]
			i++
			if c == ',' {
				if object {
					if i = keyEnd(b, skipSpace(b, i)); i < 0 {
						return false
					}
				}
				break
			}
			if object && c != '}' || !object && c != ']' {
				return false
			}
			depth--
			object = v.object(depth)
		}
	}
}

// push notes what the level around a new one at depth is.
func (v *validator) push(depth int, object bool) {
	bit := uint64(1) << (depth & 63)
	if object {
		v.outer[depth>>6] |= bit
	} else {
		v.outer[depth>>6] &^= bit
	}
}

// object is what push noted.
func (v *validator) object(depth int) bool { return v.outer[depth>>6]>>(depth&63)&1 == 1 }

func skipSpace(b []byte, i int) int {
	for i < len(b) && b[i] <= ' ' && (b[i] == ' ' || b[i] == '\n' || b[i] == '\r' || b[i] == '\t') {
		i++
	}
	return i
}

// keyEnd returns where the value of the object's member at i begins, -1 if there is none.
func keyEnd(b []byte, i int) int {
	if i == len(b) || b[i] != '"' {
		return -1
	}
	if i = stringEnd(b, i+1); i < 0 {
		return -1
	}
	if i = skipSpace(b, i); i == len(b) || b[i] != ':' {
		return -1
	}
	return i + 1
}

// stringEnd returns the index after the closing quote of the string whose text
// begins at i, -1 if it does not end or is no JSON string in UTF-8.
func stringEnd(b []byte, i int) int {
	for i < len(b) {
		if len(b)-i >= 8 {
			m := special(binary.LittleEndian.Uint64(b[i:]))
			if m == 0 {
				i += 8
				continue
			}
			i += bits.TrailingZeros64(m) >> 3
		}
		switch c := b[i]; {
		case c == '"':
			return i + 1
		case c == '\\':
			n := escapeLen(b[i+1:])
			if n == 0 {
				return -1
			}
			i += 1 + n
		case c >= utf8.RuneSelf:
			r, n := utf8.DecodeRune(b[i:])
			if r == utf8.RuneError && n == 1 {
				return -1
			}
			i += n
		case c < ' ':
			return -1
		default:
			i++ // among the last bytes of b
		}
	}
	return -1
}

// escapeLen is the length of the escape that b begins with, without its
// backslash; 0 if it is none.
func escapeLen(b []byte) int {
	if len(b) == 0 {
		return 0
	}
	switch b[0] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return 1
	case 'u':
		if len(b) < 5 {
			return 0
		}
		for _, c := range b[1:5] {
			if !('0' <= c && c <= '9' || 'a' <= c|0x20 && c|0x20 <= 'f') {
				return 0
			}
		}
		return 5
	}
	return 0
}

func literalEnd(b []byte, i int, word string) int {
	if len(b)-i < len(word) || string(b[i:i+len(word)]) != word {
		return -1
	}
	return i + len(word)
}

// numberEnd returns the index after the number at i, -1 if there is none.
func numberEnd(b []byte, i int) int {
	if b[i] == '-' {
		i++
	}
	if i < len(b) && b[i] == '0' {
		i++
	} else if i = digitsEnd(b, i); i < 0 {
		return -1
	}
	if i < len(b) && b[i] == '.' {
		if i = digitsEnd(b, i+1); i < 0 {
			return -1
		}
	}
	if i < len(b) && b[i]|0x20 == 'e' {
		i++
		if i < len(b) && (b[i] == '+' || b[i] == '-') {
			i++
		}
		i = digitsEnd(b, i)
	}
	return i
}

// digitsEnd returns the index after the digits at i, -1 if there is none.
func digitsEnd(b []byte, i int) int {
	from := i
	for i < len(b) && b[i]-'0' <= 9 {
		i++
	}
	if i == from {
		return -1
	}
	return i
}

// special marks the bytes of x that do not mean themselves in a JSON string, which
// are control bytes, quotes, backslashes and all above ASCII, by their top bits.
// Only the lowest mark is sure: a borrow may set one wrongly above a right one.
func special(x uint64) uint64 {
	const ones = 0x0101010101010101
	return ((x - ' '*ones) | ((x ^ '"'*ones) - ones) | ((x ^ '\\'*ones) - ones) | x) & (0x80 * ones)
}

// plainPrefix is how many bytes at the beginning of s mean themselves in a JSON string.
func plainPrefix(s []byte) int {
	i := 0
	for ; i+8 <= len(s); i += 8 {
		if m := special(binary.LittleEndian.Uint64(s[i:])); m != 0 {
			return i + bits.TrailingZeros64(m)>>3
		}
	}
	for ; i < len(s); i++ {
		if c := s[i]; c < ' ' || c == '"' || c == '\\' || c >= utf8.RuneSelf {
			return i
		}
	}
	return i
}

// appendString appends s as a JSON string. When s is not UTF-8 it reports false
// and the result is to be dropped.
func appendString(dst, s []byte) (_ []byte, ok bool) {
	dst = append(dst, '"')
	for {
		n := plainPrefix(s)
		for n < len(s) && s[n] >= utf8.RuneSelf {
			r, size := utf8.DecodeRune(s[n:])
			if r == utf8.RuneError && size == 1 {
				return dst, false
			}
			n += size
			n += plainPrefix(s[n:])
		}
		dst = append(dst, s[:n]...)
		if n == len(s) {
			return append(dst, '"'), true
		}
		dst = appendEscape(dst, s[n])
		s = s[n+1:]
	}
}

// appendQuoted appends s as a JSON string. What is not UTF-8 becomes U+FFFD.
func appendQuoted(dst []byte, s string) []byte {
	n := len(dst)
	dst = append(append(dst, '"'), s...)
	if plainPrefix(dst[n+1:]) < len(s) {
		dst, _ = appendString(dst[:n], []byte(strings.ToValidUTF8(s, "\uFFFD")))
		return dst
	}
	return append(dst, '"')
}

func quoted(s string) string { return string(appendQuoted(nil, s)) }

// appendEscape appends the escape of a quote, a backslash or a control byte.
func appendEscape(dst []byte, c byte) []byte {
	const hex = "0123456789abcdef"
	switch c {
	case '"', '\\':
		return append(dst, '\\', c)
	case '\n':
		return append(dst, '\\', 'n')
	case '\r':
		return append(dst, '\\', 'r')
	case '\t':
		return append(dst, '\\', 't')
	default:
		return append(dst, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
	}
}
