package delivery

import (
	"encoding/base64"
	"encoding/binary"
)

// base64Pairs holds the two characters of each twelve bits, the first in the low byte.
var base64Pairs = func() (pairs [1 << 12]uint16) {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
	for i := range pairs {
		pairs[i] = uint16(alphabet[i>>6]) | uint16(alphabet[i&63])<<8
	}
	return pairs
}()

// appendBase64 appends what base64.StdEncoding makes of p. Values are most of what
// a delivery costs, and this takes half the time: six bytes a turn, by pairs.
func appendBase64(dst, p []byte) []byte {
	n := len(dst)
	dst = append(dst, make([]byte, base64.StdEncoding.EncodedLen(len(p)))...)
	out := dst[n:]
	for len(p) >= 8 && len(out) >= 8 {
		x := binary.BigEndian.Uint64(p)
		binary.LittleEndian.PutUint64(out, uint64(base64Pairs[x>>52])|
			uint64(base64Pairs[x>>40&0xfff])<<16|
			uint64(base64Pairs[x>>28&0xfff])<<32|
			uint64(base64Pairs[x>>16&0xfff])<<48)
		p, out = p[6:], out[8:]
	}
	base64.StdEncoding.Encode(out, p)
	return dst
}
