package acker

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

const (
	metadataVersion = "k1"
	maxMetadata     = 4096 // bytes Kafka keeps with a commit by default
	// maxPacked is how many bytes the distances of r may have, before base64, so
	// that the text fits whatever a and t are.
	maxPacked = (maxMetadata - len(metadataVersion) - len(";a=;t=;r=") - len("9223372036854775807-9223372036854775807")) * 3 / 4
)

// ErrMetadataTooLarge means that the metadata does not fit into a commit.
// Leaving out acked runs makes it smaller and costs no more than delivering
// those again.
var ErrMetadataTooLarge = errors.New("commit metadata is larger than 4096 bytes")

// errMetadata is the refusal of a text that Append did not write.
var errMetadata = errors.New("text is not of the form that is written here")

// Metadata is the delivery state kept in the metadata of a commit. Its text has
// up to three fields after a version, each left out when it has nothing to say;
// a zero Metadata is the empty text:
//
//	k1;a=3;t=1790000000123;r=AgID
//
// a is Attempts and t FirstAttempt in Unix milliseconds. r is the unpadded
// URL-safe base64 of uvarints, two for each run: how many offsets lie between
// it and the run before (for the first, its offset), and how many follow its
// first one.
type Metadata struct {
	Attempts     int       // of the delivery that begins at the committed offset; 0: none
	FirstAttempt time.Time // to the millisecond; zero: none
	Acked        []Run     // runs above the committed offset that are settled: ascending, not touching
}

// Append appends the text of m to dst. It fails with ErrMetadataTooLarge beyond
// 4096 bytes, and with another error if Attempts is negative or the runs do not
// ascend; dst is then returned as it was.
func (m Metadata) Append(dst []byte) ([]byte, error) {
	if m.Attempts < 0 {
		return dst, fmt.Errorf("writing commit metadata: %d attempts", m.Attempts)
	}
	if m.Attempts == 0 && m.FirstAttempt.IsZero() && len(m.Acked) == 0 {
		return dst, nil
	}
	b := append(dst, metadataVersion...)
	if m.Attempts > 0 {
		b = append(b, ";a="...)
		b = strconv.AppendInt(b, int64(m.Attempts), 10)
	}
	if !m.FirstAttempt.IsZero() {
		b = append(b, ";t="...)
		b = strconv.AppendInt(b, m.FirstAttempt.UnixMilli(), 10)
	}
	if len(m.Acked) > 0 {
		packed, err := appendRuns(nil, m.Acked)
		if err != nil {
			return dst, fmt.Errorf("writing commit metadata: %w", err)
		}
		b = append(b, ";r="...)
		b = base64.RawURLEncoding.AppendEncode(b, packed)
	}
	if len(b)-len(dst) > maxMetadata {
		return dst, ErrMetadataTooLarge
	}
	return b, nil
}

// ParseMetadata returns the Metadata that s is the text of. The empty text is
// the zero Metadata; a text that Append did not write is an error.
func ParseMetadata(s string) (Metadata, error) {
	if s == "" {
		return Metadata{}, nil
	}
	m, err := parseMetadata(s)
	if err != nil {
		return Metadata{}, fmt.Errorf("reading commit metadata: %w", err)
	}
	// Writing it again settles every question of form at once: the order of
	// the fields, leading zeros, varints longer than they need to be, runs that
	// do not ascend or run over.
	if again, err := m.Append(nil); err != nil || string(again) != s {
		return Metadata{}, fmt.Errorf("reading commit metadata: %w", errMetadata)
	}
	return m, nil
}

func parseMetadata(s string) (Metadata, error) {
	version, fields, _ := strings.Cut(s, ";")
	if version != metadataVersion || len(s) > maxMetadata {
		return Metadata{}, errMetadata
	}
	var m Metadata
	for field := range strings.SplitSeq(fields, ";") {
		name, value, _ := strings.Cut(field, "=")
		var err error
		switch name {
		case "a":
			m.Attempts, err = strconv.Atoi(value)
		case "t":
			var ms int64
			ms, err = strconv.ParseInt(value, 10, 64)
			m.FirstAttempt = time.UnixMilli(ms).UTC()
		case "r":
			m.Acked, err = parseRuns(value)
		default:
			err = errMetadata
		}
		if err != nil {
			return Metadata{}, err
		}
	}
	return m, nil
}

// appendRuns appends the distances of Metadata's r to dst.
func appendRuns(dst []byte, runs []Run) ([]byte, error) {
	end := int64(0) // one past the run before
	for i, r := range runs {
		if r.First < end || r.Last < r.First || r.Last == math.MaxInt64 || (i > 0 && r.First == end) {
			return nil, fmt.Errorf("run %d-%d after offset %d", r.First, r.Last, end-1)
		}
		dst = binary.AppendUvarint(dst, uint64(r.First-end))
		dst = binary.AppendUvarint(dst, uint64(r.Last-r.First))
		end = r.Last + 1
	}
	return dst, nil
}

// parseRuns reads what appendRuns wrote, in base64. It leaves it to the caller
// to refuse numbers that ran over, which appendRuns cannot have written.
func parseRuns(s string) ([]Run, error) {
	b, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil {
		return nil, errMetadata
	}
	var runs []Run
	end := int64(0)
	for len(b) > 0 {
		gap, n := binary.Uvarint(b)
		if n <= 0 {
			return nil, errMetadata
		}
		b = b[n:]
		more, n := binary.Uvarint(b)
		if n <= 0 {
			return nil, errMetadata
		}
		b = b[n:]
		r := Run{First: end + int64(gap)}
		r.Last = r.First + int64(more)
		runs = append(runs, r)
		end = r.Last + 1
	}
	return runs, nil
}
