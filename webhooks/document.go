package webhooks

import (
	"bytes"
	"encoding/json"
	"fmt"
	"unicode/utf8"
)

// The values of a JSON document that encoding/json has no exact type for. The
// others are string, bool, json.Number, []any and nil.
type (
	// object keeps its members in order. No name occurs twice: the second of a
	// name is left out, and complained about.
	object []member

	member struct {
		name  string
		value any
	}

	// tooDeep stands for a value that was left out, and complained about.
	tooDeep struct{}
)

// maxDepth is how deep a document may nest; a webhook needs three levels.
const maxDepth = 8

// gives tells whether the object that a member of o is has a value for a name.
func (o object) gives(member, name string) bool {
	inner, _ := o.value(member).(object)
	return inner.value(name) != nil
}

// value is that of a member; nil if it is null or not there.
func (o object) value(name string) any {
	for _, m := range o {
		if m.name == name {
			return m.value
		}
	}
	return nil
}

// document reads JSON that has no duplicate names, nests no deeper than maxDepth
// and is UTF-8.
type document struct {
	tokens *json.Decoder
	*complaints
}

// readObject reads data, which has to be one JSON object and nothing else:
// otherwise the error is ErrMalformed. Whatever else is wrong goes to c.
func readObject(data []byte, c *complaints) (object, error) {
	// Valid is iterative and gives up at 10,000 levels, so neither it nor the
	// bounded recursion below can be made to eat the stack.
	if !utf8.Valid(data) || !json.Valid(data) {
		return nil, ErrMalformed
	}
	d := document{json.NewDecoder(bytes.NewReader(data)), c}
	d.tokens.UseNumber()
	v, err := d.value("", 1)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if o, ok := v.(object); ok {
		return o, nil
	}
	return nil, ErrMalformed
}

func (d document) value(pointer string, depth int) (any, error) {
	token, err := d.tokens.Token()
	if err != nil {
		return nil, err
	}
	delim, ok := token.(json.Delim)
	switch {
	case !ok:
		return token, nil
	case depth > maxDepth:
		d.add(pointer, "is nested too deeply")
		return tooDeep{}, d.skip()
	case delim == '[':
		return d.array(pointer, depth)
	default:
		return d.object(pointer, depth)
	}
}

func (d document) array(pointer string, depth int) (any, error) {
	values := []any{}
	for d.tokens.More() {
		v, err := d.value(fmt.Sprintf("%s/%d", pointer, len(values)), depth+1)
		if err != nil {
			return nil, err
		}
		values = append(values, v)
	}
	_, err := d.tokens.Token() // the closing bracket
	return values, err
}

func (d document) object(pointer string, depth int) (any, error) {
	members := object{}
	seen := map[string]bool{}
	for d.tokens.More() {
		token, err := d.tokens.Token()
		if err != nil {
			return nil, err
		}
		name := token.(string) // a member's name: what Valid guarantees
		at := child(pointer, name)
		v, err := d.value(at, depth+1)
		if err != nil {
			return nil, err
		}
		if seen[name] {
			d.add(at, "is given twice")
			continue
		}
		seen[name] = true
		members = append(members, member{name, v})
	}
	_, err := d.tokens.Token() // the closing brace
	return members, err
}

// skip reads to the end of the array or object that was just opened.
func (d document) skip() error {
	for open := 1; open > 0; {
		token, err := d.tokens.Token()
		if err != nil {
			return err
		}
		switch token {
		case json.Delim('['), json.Delim('{'):
			open++
		case json.Delim(']'), json.Delim('}'):
			open--
		}
	}
	return nil
}
