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
	maxMembers    = 64 // of an object that is read; those we know have a dozen at most
)

// object is a JSON object whose values are read one by one, with the complaints
// about them collected. Pointers into it begin at itself.
type object struct {
	at         string   // JSON pointer from the body to it
	names      []string // in order, each once
	values     map[string]json.RawMessage
	complaints *[]api.FieldError // about the whole body
}

// readObject reads a body, which is valid JSON. What is not an object, or far too
// large a one, is an *invalidError; a name given twice is a complaint.
func readObject(data json.RawMessage) (*object, error) {
	o := &object{complaints: &[]api.FieldError{}}
	if !o.read(data) {
		return nil, o.err()
	}
	return o, nil
}

// within reads an object that a value of o is or holds; false, with a complaint, if
// it is none.
func (o *object) within(pointer string, data json.RawMessage) (*object, bool) {
	inner := &object{at: o.at + pointer, complaints: o.complaints}
	return inner, inner.read(data)
}

func (o *object) read(data json.RawMessage) bool {
	o.values = map[string]json.RawMessage{}
	tokens := json.NewDecoder(bytes.NewReader(data))
	if open, _ := tokens.Token(); open != json.Delim('{') {
		o.complain("", "must be an object")
		return false
	}
	for tokens.More() {
		if len(o.names) == maxMembers {
			o.complain("", fmt.Sprintf("must have at most %d fields", maxMembers))
			return false
		}
		token, _ := tokens.Token()
		var value json.RawMessage
		if err := tokens.Decode(&value); err != nil { // not in valid JSON
			o.complain("", "must be valid JSON")
			return false
		}
		name := token.(string) // names are strings
		if _, twice := o.values[name]; twice {
			o.complain(pointerTo(name), "is given twice")
			continue
		}
		o.names, o.values[name] = append(o.names, name), value
	}
	return true
}

// complain notes what is wrong; the first complaint about a pointer stands, since
// what follows from it would only repeat it.
func (o *object) complain(pointer, detail string) {
	pointer = o.at + pointer
	about := func(f api.FieldError) bool { return f.Pointer == pointer }
	if len(*o.complaints) < maxComplaints && !slices.ContainsFunc(*o.complaints, about) {
		*o.complaints = append(*o.complaints, api.FieldError{Pointer: pointer, Detail: detail})
	}
}

// err is nil or an *invalidError.
func (o *object) err() error {
	if len(*o.complaints) == 0 {
		return nil
	}
	return &invalidError{*o.complaints}
}

// refuseBeside complains about every field but those named.
func (o *object) refuseBeside(names ...string) {
	for _, name := range o.names {
		if !slices.Contains(names, name) {
			o.complain(pointerTo(name), "is not a known field")
		}
	}
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

// array reads an array of so many values, each left as it stands; false when there is
// none. of says what the values are.
func (o *object) array(name string, least, most int, of string) (values []json.RawMessage, ok bool) {
	raw, ok := o.values[name]
	if !ok {
		return nil, false
	}
	tokens := json.NewDecoder(bytes.NewReader(raw))
	if open, _ := tokens.Token(); open != json.Delim('[') {
		o.complain(pointerTo(name), "must be an array")
		return nil, false
	}
	for tokens.More() && len(values) <= most {
		var value json.RawMessage
		if err := tokens.Decode(&value); err != nil { // not in valid JSON
			o.complain(pointerTo(name), "must be valid JSON")
			return nil, false
		}
		values = append(values, value)
	}
	switch n := len(values); {
	case n > most:
		o.complain(pointerTo(name), fmt.Sprintf("must be at most %d %s", most, of))
		return nil, false
	case n < least:
		o.complain(pointerTo(name), fmt.Sprintf("must be at least %d %s", least, of))
		return nil, false
	}
	return values, true
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
