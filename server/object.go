package server

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/kpush/kpush/server/api"
)

const (
	maxComplaints = 50 // bounds an answer, whatever was sent
	maxMembers    = 64 // of an object that is read; an ack has a dozen at most
)

// object is a JSON object whose values are read one by one, with the complaints
// about them collected.
type object struct {
	names      []string // in order, each once
	values     map[string]json.RawMessage
	complaints []api.FieldError
}

// readObject reads valid JSON. What is not an object, or far too large a one, is an
// *invalidError; a name given twice is a complaint.
func readObject(data json.RawMessage) (*object, error) {
	o := &object{values: map[string]json.RawMessage{}}
	tokens := json.NewDecoder(bytes.NewReader(data))
	if open, err := tokens.Token(); err != nil || open != json.Delim('{') {
		return nil, invalid("", "must be an object")
	}
	for tokens.More() {
		if len(o.names) == maxMembers {
			return nil, invalid("", fmt.Sprintf("must have at most %d fields", maxMembers))
		}
		name, err := tokens.Token()
		if err != nil {
			return nil, fmt.Errorf("reading a name: %w", err) // not after json.Valid
		}
		var value json.RawMessage
		if err := tokens.Decode(&value); err != nil {
			return nil, fmt.Errorf("reading a value: %w", err)
		}
		n := name.(string) // names are strings
		if _, twice := o.values[n]; twice {
			o.complain(pointerTo(n), "is given twice")
			continue
		}
		o.names, o.values[n] = append(o.names, n), value
	}
	return o, nil
}

// complain notes what is wrong; the first complaint about a pointer stands, since
// what follows from it would only repeat it.
func (o *object) complain(pointer, detail string) {
	about := func(f api.FieldError) bool { return f.Pointer == pointer }
	if len(o.complaints) < maxComplaints && !slices.ContainsFunc(o.complaints, about) {
		o.complaints = append(o.complaints, api.FieldError{Pointer: pointer, Detail: detail})
	}
}

// err is nil or an *invalidError.
func (o *object) err() error {
	if len(o.complaints) == 0 {
		return nil
	}
	return &invalidError{o.complaints}
}

func (o *object) require(name string) {
	if _, ok := o.values[name]; !ok {
		o.complain(pointerTo(name), "is required")
	}
}

// text reads a string that is not empty; ok is false when there is none.
func (o *object) text(name string) (s string, ok bool) {
	s, ok = o.textUpTo(name, math.MaxInt)
	if ok && s == "" {
		o.complain(pointerTo(name), "must not be empty")
	}
	return s, ok && s != ""
}

func (o *object) textUpTo(name string, most int) (s string, ok bool) {
	raw, ok := o.values[name]
	if !ok {
		return "", false
	}
	if raw[0] != '"' || json.Unmarshal(raw, &s) != nil {
		o.complain(pointerTo(name), "must be a string")
		return "", false
	}
	if len(s) > most {
		o.complain(pointerTo(name), fmt.Sprintf("must be at most %d bytes", most))
		return "", false
	}
	return s, true
}

// integer reads a whole number written in plain digits, exactly; ok is false when
// there is none.
func (o *object) integer(name string, least, most int64) (n int64, ok bool) {
	raw, ok := o.values[name]
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseInt(string(raw), 10, 64)
	switch {
	case err != nil:
		o.complain(pointerTo(name), "must be a whole number in plain digits, of 64 bits at most")
		return 0, false
	case n < least || n > most:
		o.complain(pointerTo(name), fmt.Sprintf("must be from %d to %d", least, most))
		return 0, false
	}
	return n, true
}

var pointerEscapes = strings.NewReplacer("~", "~0", "/", "~1")

// pointerTo is the JSON pointer to a field. A name too long to be repeated leaves
// it at the object.
func pointerTo(name string) string {
	if len(name) > maxPointer {
		return ""
	}
	return "/" + pointerEscapes.Replace(name)
}
