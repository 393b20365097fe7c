package webhooks

import (
	"errors"
	"strings"
)

// ErrMalformed says that a body is not one JSON object.
var ErrMalformed = errors.New("not a JSON object")

// FieldError is one complaint about one field.
type FieldError struct {
	Pointer string // RFC 6901 JSON pointer into the body; "" is the whole body
	Detail  string // a sentence that never repeats the offending value
}

// ValidationError holds every complaint about a webhook at once.
type ValidationError struct{ Fields []FieldError }

func (e *ValidationError) Error() string {
	var b strings.Builder
	b.WriteString("webhook is not valid")
	for i, f := range e.Fields {
		b.WriteString([]string{": ", "; "}[min(i, 1)])
		b.WriteString(f.Pointer + " " + f.Detail)
	}
	return b.String()
}
