package delivery

import (
	"bytes"
	"mime"
	"strings"

	"github.com/kpush/kpush/internal/records"
)

// maxMediaType is the longest content type that is taken from a record.
const maxMediaType = 255

// contentTypeOf is what record i says of its value in a header content-type, the last
// one in any case. It is empty if there is none or if it cannot be sent as it is.
func contentTypeOf(b *records.Batch, i int) string {
	for j := b.Headers(i) - 1; j >= 0; j-- {
		name, value := b.Header(i, j)
		if len(name) == len("content-type") && bytes.EqualFold(name, []byte("content-type")) {
			if validMediaType(value) {
				return string(value)
			}
			return ""
		}
	}
	return ""
}

// validMediaType reports whether text is a media type (RFC 9110, 8.3.1) that can
// stand in a header: printable ASCII, no spaces around it, and not several at once.
func validMediaType(text []byte) bool {
	if len(text) == 0 || len(text) > maxMediaType || text[0] == ' ' || text[len(text)-1] == ' ' {
		return false
	}
	for _, c := range text {
		if c < ' ' || c > '~' {
			return false
		}
	}
	kind, _, err := mime.ParseMediaType(string(text))
	main, sub, ok := strings.Cut(kind, "/")
	return err == nil && ok && main != "" && sub != ""
}

// mediaType is a content type without its parameters.
func mediaType(contentType string) string {
	kind, _, _ := strings.Cut(contentType, ";")
	return strings.TrimSpace(kind)
}
