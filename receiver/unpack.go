package receiver

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
)

var (
	errEncoding = errors.New("there is nothing to unpack this content-encoding with")
	errPacked   = errors.New("the body cannot be unpacked")
)

// unpack undoes the content-encoding of a body that was verified: what is signed is
// what was sent. A small body may become a large one, so no more is unpacked than
// would be read.
func (h *Handler) unpack(header http.Header, body []byte) ([]byte, error) {
	encoding := strings.ToLower(strings.Join(header["Content-Encoding"], ", "))
	var r io.ReadCloser
	err := guard(func() (err error) {
		switch {
		case encoding == "" || encoding == "identity":
		case encoding == "gzip":
			r, err = gzip.NewReader(bytes.NewReader(body))
		case h.Decompress == nil:
			err = errEncoding
		default:
			r, err = h.Decompress(encoding, bytes.NewReader(body))
		}
		if err != nil || r == nil {
			return err
		}
		defer r.Close()
		plain, err := io.ReadAll(io.LimitReader(r, h.longest()+1))
		body = plain
		return err
	})
	switch {
	case errors.Is(err, errEncoding):
		return nil, refuse(http.StatusUnsupportedMediaType, fmt.Errorf("%w: %.50q", errEncoding, encoding))
	case err != nil:
		return nil, refuse(http.StatusBadRequest, fmt.Errorf("%w: %w", errPacked, err))
	case r != nil && int64(len(body)) > h.longest():
		return nil, refuse(http.StatusRequestEntityTooLarge, errTooLong)
	}
	return body, nil
}
