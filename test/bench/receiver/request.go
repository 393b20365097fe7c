package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
)

// head is what the receiver needs of a request's head.
type head struct {
	length      int
	partition   int
	first, last int64
	count       int64
}

var errNoLength = errors.New("request without a content length")

// readHead reads up to the empty line.
func readHead(r *bufio.Reader) (head, error) {
	h := head{length: -1}
	for n := 0; ; n++ {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return h, err
		}
		line = bytes.TrimSuffix(line[:len(line)-1], []byte("\r"))
		if n == 0 {
			continue // POST / HTTP/1.1
		}
		if len(line) == 0 {
			break
		}
		// Most headers are passed over by their first letter: the receiver shares its
		// core with Kafka, and what it spends is not to be measured.
		if c := line[0] | 0x20; c != 'c' && c != 'k' {
			continue
		}
		name, value, _ := bytes.Cut(line, []byte(": "))
		if err := h.field(name, value); err != nil {
			return h, err
		}
	}
	if h.length < 0 {
		return h, errNoLength
	}
	return h, nil
}

func (h *head) field(name, value []byte) error {
	var into *int64
	var number int64
	switch {
	case equal(name, "content-length"), equal(name, "kpush-partition"):
		into = &number
	case equal(name, "kpush-first-offset"):
		into = &h.first
	case equal(name, "kpush-last-offset"):
		into = &h.last
	case equal(name, "kpush-record-count"):
		into = &h.count
	default:
		return nil
	}
	n, err := strconv.ParseInt(string(value), 10, 64)
	if err != nil {
		return fmt.Errorf("header %s: %w", name, err)
	}
	*into = n
	if equal(name, "content-length") {
		h.length = int(n)
	} else if equal(name, "kpush-partition") {
		h.partition = int(n)
	}
	return nil
}

// equal compares a header's name without regard to case.
func equal(name []byte, want string) bool {
	return len(name) == len(want) && bytes.EqualFold(name, []byte(want))
}

// body reads n bytes; keep says whether they are wanted. The slice is buf or
// its replacement, good until the next call.
func body(r *bufio.Reader, buf []byte, n int, keep bool) ([]byte, error) {
	if !keep {
		_, err := r.Discard(n)
		return buf, err
	}
	if cap(buf) < n {
		buf = make([]byte, n)
	}
	buf = buf[:n]
	_, err := io.ReadFull(r, buf)
	return buf, err
}
