package filter

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/interpreter"

	"github.com/kpush/kpush/internal/records"
)

var errNotBool = errors.New("the expression came to something that is not true or false")

// Match tells whether record i of b passes. An error says that the expression could
// not be evaluated for it; Explain tells why. It may be called from many goroutines
// at once.
func (f *Filter) Match(topic string, partition int32, b *records.Batch, i int) (bool, error) {
	r := activations.Get().(*record)
	*r = record{topic: topic, partition: partition, batch: b, i: i}
	out, _, err := f.program.Eval(r)
	*r = record{}
	activations.Put(r)
	if err != nil {
		return false, err
	}
	pass, ok := out.(types.Bool)
	if !ok {
		return false, errNotBool
	}
	return bool(pass), nil
}

var activations = sync.Pool{New: func() any { return new(record) }}

// record gives the variables of one record their values, each when it is asked
// for: the value is decoded if the evaluation comes to it, once. It implements
// interpreter.Activation.
type record struct {
	topic     string
	partition int32
	batch     *records.Batch
	i         int

	value   ref.Val // nil until it was asked for
	headers ref.Val
}

func (r *record) Parent() interpreter.Activation { return nil }

func (r *record) ResolveName(name string) (any, bool) {
	switch name {
	case varKey:
		return types.String(text(r.batch.Key(r.i))), true
	case varKeyBytes:
		return types.Bytes(r.batch.Key(r.i)), true
	case varValue:
		if r.value == nil {
			r.value = decode(r.batch.Value(r.i))
		}
		return r.value, true
	case varValueBytes:
		return types.Bytes(r.batch.Value(r.i)), true
	case varTombstone:
		return types.Bool(r.batch.Value(r.i) == nil), true
	case varHeaders:
		if r.headers == nil {
			r.headers = headersOf(r.batch, r.i)
		}
		return r.headers, true
	case varTopic:
		return types.String(r.topic), true
	case varPartition:
		return types.Int(r.partition), true
	case varOffset:
		return types.Int(r.batch.Records[r.i].Offset), true
	case varTimestamp:
		return types.Timestamp{Time: time.UnixMilli(max(0, r.batch.Records[r.i].Timestamp)).UTC()}, true
	}
	return nil, false
}

// text is bytes as a string; what is not UTF-8 among them is U+FFFD.
func text(b []byte) string { return strings.ToValidUTF8(string(b), "\uFFFD") }

// headersOf has the last value of each name.
func headersOf(b *records.Batch, i int) ref.Val {
	headers := make(map[string]string, b.Headers(i))
	for j := range b.Headers(i) {
		name, value := b.Header(i, j)
		headers[text(name)] = text(value)
	}
	return types.NewStringStringMap(types.DefaultTypeAdapter, headers)
}

// decode reads JSON in UTF-8; anything else is null. Whole numbers written in plain
// digits are int where 64 bits hold them, all others double.
func decode(b []byte) ref.Val {
	if !utf8.Valid(b) {
		return types.NullValue
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	var v any
	if d.Decode(&v) != nil {
		return types.NullValue
	}
	if _, err := d.Token(); err != io.EOF {
		return types.NullValue // there is more behind it
	}
	return types.DefaultTypeAdapter.NativeToValue(numbers(v))
}

// numbers makes numbers of the texts of numbers in v, in place.
func numbers(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for name, member := range v {
			switch member.(type) {
			case json.Number, map[string]any, []any:
				v[name] = numbers(member)
			}
		}
	case []any:
		for i, element := range v {
			v[i] = numbers(element)
		}
	case json.Number:
		if n, err := strconv.ParseInt(string(v), 10, 64); err == nil {
			return n
		}
		f, err := strconv.ParseFloat(string(v), 64)
		_ = err // a number out of range is an infinity, as in most languages
		return f
	}
	return v
}
