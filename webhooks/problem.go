package webhooks

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// ErrMalformed says that a body is not one JSON object.
var ErrMalformed = errors.New("not a JSON object")

// FieldError is one complaint about one field.
type FieldError struct {
	Pointer string // RFC 6901 JSON pointer into the body; "" is the whole body
	Detail  string // completes "<field> ..."; never repeats the offending value

	// NotAllowed tells that the field is a URL that may not be registered, by its form
	// or by the installation's policy.
	NotAllowed bool
}

// ValidationError holds the complaints about a webhook, at most maxComplaints of
// them and at most one per pointer, in the order in which they were found.
type ValidationError struct{ Fields []FieldError }

func (e *ValidationError) Error() string {
	details := make([]string, len(e.Fields))
	for i, f := range e.Fields {
		details[i] = strings.TrimPrefix(f.Pointer+" "+f.Detail, " ")
	}
	return "webhook is not valid: " + strings.Join(details, "; ")
}

// URLNotAllowed tells whether URLs that may not be registered are all that is wrong.
func (e *ValidationError) URLNotAllowed() bool {
	return len(e.Fields) > 0 && !slices.ContainsFunc(e.Fields, func(f FieldError) bool { return !f.NotAllowed })
}

const (
	// maxComplaints bounds an answer, whatever was sent.
	maxComplaints = 50

	// maxPointerName is the longest member name that goes into a pointer as it was sent.
	maxPointerName = 64
)

// complaints collects what is wrong with one webhook. The first complaint about
// a pointer stands: what follows from it (a url of the wrong type is also
// missing) would only repeat it.
type complaints struct{ fields []FieldError }

func (c *complaints) add(pointer, format string, args ...any) {
	c.note(FieldError{Pointer: pointer, Detail: fmt.Sprintf(format, args...)})
}

// refuse is add for a URL that may not be registered.
func (c *complaints) refuse(pointer, format string, args ...any) {
	c.note(FieldError{Pointer: pointer, Detail: fmt.Sprintf(format, args...), NotAllowed: true})
}

func (c *complaints) note(field FieldError) {
	if len(c.fields) == maxComplaints {
		return
	}
	for _, f := range c.fields {
		if f.Pointer == field.Pointer {
			return
		}
	}
	c.fields = append(c.fields, field)
}

// err is nil or a *ValidationError.
func (c *complaints) err() error {
	if len(c.fields) == 0 {
		return nil
	}
	return &ValidationError{c.fields}
}

var pointerEscapes = strings.NewReplacer("~", "~0", "/", "~1")

// child is the pointer to a member of an object. A name too long to be repeated
// leaves the pointer at the object.
func child(pointer, name string) string {
	if len(name) > maxPointerName {
		return pointer
	}
	return pointer + "/" + pointerEscapes.Replace(name)
}
