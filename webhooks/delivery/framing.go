package delivery

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"strconv"
)

var (
	errFraming = errors.New("it is not certain where the answer ends")
	errChunk   = errors.New("a chunk of the answer is malformed")
)

// sound tells whether a response's head, with its line ends, says where the body
// ends in one way only. net/http, which parses it, makes the best of two lengths
// that are alike, of a length beside chunks, of folded lines and of blanks in names;
// something between the receiver and us may make something else of them, and then
// the next answer on the connection is not the receiver's (RFC 9112, 11.2).
func sound(head []byte) bool {
	status, fields, _ := bytes.Cut(head, []byte{'\n'})
	framings, chunked := 0, false
	for len(fields) > 0 {
		var line []byte
		line, fields, _ = bytes.Cut(fields, []byte{'\n'})
		line = bytes.TrimSuffix(line, []byte{'\r'})
		if len(line) == 0 {
			break
		}
		colon := bytes.IndexByte(line, ':')
		if colon <= 0 || line[0] == ' ' || line[0] == '\t' || line[colon-1] == ' ' || line[colon-1] == '\t' || bytes.IndexByte(line, '\r') >= 0 {
			return false
		}
		switch name := line[:colon]; {
		case len(name) == len("content-length") && bytes.EqualFold(name, []byte("content-length")):
			framings++
		case len(name) == len("transfer-encoding") && bytes.EqualFold(name, []byte("transfer-encoding")):
			framings++
			chunked = true
		}
	}
	return framings <= 1 && (!chunked || bytes.HasPrefix(status, []byte("HTTP/1.1 ")))
}

// chunks reads a chunked body as servers send it: sizes in hexadecimal digits, line
// ends of two bytes, no extensions, no trailers. The rest of RFC 9112, 7.1 is read
// in more than one way in the wild, and no receiver needs it for an answer to a
// delivery.
type chunks struct {
	r    *bufio.Reader
	left int64 // of the chunk under way
	any  bool  // there was one already, whose end has to come before the next
	err  error // what it ended with
}

func (c *chunks) Read(p []byte) (int, error) {
	if c.left == 0 && c.err == nil {
		c.err = c.next()
	}
	if c.err != nil {
		return 0, c.err
	}
	n, err := c.r.Read(p[:min(int64(len(p)), c.left)])
	c.left -= int64(n)
	return n, unexpected(err)
}

// Close does nothing: the connection is the wire's.
func (c *chunks) Close() error { return nil }

// next reads up to the next chunk's first byte. It returns io.EOF after the last one.
func (c *chunks) next() error {
	if c.any {
		if err := c.lineEnd(); err != nil {
			return err
		}
	}
	c.any = true
	line, err := c.r.ReadSlice('\n')
	if errors.Is(err, bufio.ErrBufferFull) {
		return errChunk
	}
	if err != nil {
		return unexpected(err)
	}
	digits, ok := bytes.CutSuffix(line, []byte("\r\n"))
	size, err := strconv.ParseUint(string(digits), 16, 63)
	if !ok || err != nil || len(digits) > maxChunkDigits {
		return errChunk
	}
	c.left = int64(size)
	if size > 0 {
		return nil
	}
	if err := c.lineEnd(); err != nil { // anything else would be a trailer
		return err
	}
	return io.EOF
}

// maxChunkDigits are enough for 2^63-1.
const maxChunkDigits = 16

func (c *chunks) lineEnd() error {
	for _, want := range []byte("\r\n") {
		got, err := c.r.ReadByte()
		if err != nil {
			return unexpected(err)
		}
		if got != want {
			return errChunk
		}
	}
	return nil
}

// unexpected is err, within what has not come to its end.
func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
