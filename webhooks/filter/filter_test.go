package filter

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/kpush/kpush/internal/records"
)

// sample is the record that the tests below look at.
type sample struct {
	key, value []byte
	timestamp  int64
	headers    [][2]string
}

func (s sample) batch() *records.Batch {
	b := new(records.Batch)
	b.Append(records.Record{Offset: 1200, Timestamp: s.timestamp}, s.key, s.value)
	for _, h := range s.headers {
		b.AppendHeader([]byte(h[0]), []byte(h[1]))
	}
	return b
}

func compiled(t testing.TB, expression string) *Filter {
	t.Helper()
	f, err := Compile(expression)
	if err != nil {
		t.Fatalf("Compile(%q): %v", expression, err)
	}
	return f
}

func order(value string) sample {
	return sample{
		key: []byte("o-17"), value: []byte(value), timestamp: 1_790_000_000_123,
		headers: [][2]string{{"region", "us"}, {"region", "eu"}, {"trace", "abc"}},
	}
}

const (
	passes = "passes"
	drops  = "is dropped"
	fails  = "cannot be evaluated"
)

func outcome(pass bool, err error) string {
	switch {
	case err != nil:
		return fails
	case pass:
		return passes
	default:
		return drops
	}
}

func TestExpressionsAndWhatTheySayOfARecord(t *testing.T) {
	big := order(`{"type":"order","total":250,"price":9.5,"id":9007199254740993,"paid":true,"note":null,` +
		`"items":[{"sku":"a-1","qty":3},{"sku":"b-2","qty":1}],"customer":{"country":"DE","vip":false}}`)
	for _, c := range []struct {
		name, expression string
		of               sample
		want             string
	}{
		{"a field that is larger", `value.total > 100`, big, passes},
		{"a field that is smaller", `value.total > 1000`, big, drops},
		{"a whole number against a fraction", `value.total > 249.5 && value.price < 10`, big, passes},
		{"a whole number that a double cannot hold", `value.id == 9007199254740993`, big, passes},
		{"its neighbour", `value.id == 9007199254740992`, big, drops},
		{"any of a list", `value.items.exists(i, i.sku == "b-2")`, big, passes},
		{"all of a list", `value.items.all(i, i.qty > 1)`, big, drops},
		{"how many of a list", `size(value.items.filter(i, i.qty > 1)) == 1`, big, passes},
		{"a nested field", `value.customer.country in ["DE", "AT", "CH"]`, big, passes},
		{"a field that may be missing", `has(value.refund) && value.refund > 0`, big, drops},
		{"an optional one, with what stands for it", `value.?customer.?zone.orValue("none") == "none"`, big, passes},
		{"a missing field that is not asked for first", `value.refund > 0`, big, fails},
		{"a field of another type", `value.type > 5`, big, fails},
		{"a missing field that does not matter", `value.refund > 0 || key == "o-17"`, big, passes},
		{"a boolean field", `value.paid == true`, big, passes},
		{"null in JSON", `value.note == null`, big, passes},
		{"the key", `key.startsWith("o-")`, big, passes},
		{"the key's bytes", `key_bytes == b"o-17"`, big, passes},
		{"the last of a header", `headers["region"] == "eu"`, big, passes},
		{"a header that is not there", `headers["x"] == "eu"`, big, fails},
		{"whether a header is there", `"x" in headers`, big, drops},
		{"where it is from", `topic == "orders" && partition == 3 && offset == 1200`, big, passes},
		{"its time", `timestamp > timestamp("2026-01-01T00:00:00Z") && timestamp.getFullYear() == 2026`, big, passes},
		{"a pattern", `key.matches("^o-[0-9]+$")`, big, passes},
		{"a pattern as a function", `matches(value.customer.country, "^(AT|CH)$")`, big, drops},
		{"a tombstone", `!tombstone`, sample{key: []byte("k")}, drops},
		{"a tombstone's value", `value == null && value_bytes == b""`, sample{}, passes},
		{"a tombstone's fields", `value.type == "order"`, sample{}, fails},
		{"no key", `key == ""`, sample{}, passes},
		{"no time", `timestamp == timestamp(0)`, sample{timestamp: -1}, passes},
		{"what is not JSON", `value == null && !tombstone`, sample{value: []byte("plain text")}, passes},
		{"JSON with something behind it", `value == null`, sample{value: []byte(`{} {}`)}, passes},
		{"JSON that is not UTF-8", `value == null`, sample{value: []byte("\"\xff\"")}, passes},
		{"bytes that are not UTF-8", `key == "\ufffd" && key_bytes == b"\xff"`, sample{key: []byte("\xff")}, passes},
		{"a list for a value", `value[1] == 2`, sample{value: []byte(`[1,2]`)}, passes},
		{"a number too large for an int", `value > 9223372036854775807`, sample{value: []byte(`9223372036854775808000`)}, passes},
		{"a constant", `true`, sample{}, passes},
		{"names given to values", `optional.of(value.total).optMap(t, t > 100).orValue(false)`, big, passes},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := compiled(t, c.expression)
			pass, err := f.Match("orders", 3, c.of.batch(), 0)
			if got := outcome(pass, err); got != c.want {
				t.Errorf("%s: the record %s (%v), want that it %s", c.expression, got, err, c.want)
			}
		})
	}
}

func TestWhatIsWrongWithAnExpressionIsToldWithItsPlace(t *testing.T) {
	for _, c := range []struct {
		name, expression string
		line, column     int
		about            string
	}{
		{"nothing", ``, 1, 1, "mismatched input"},
		{"an unknown name", "value.total > 100 &&\n  vlaue.paid", 2, 3, "undeclared reference to 'vlaue'"},
		{"a syntax error", `value.total >`, 1, 14, "mismatched input"},
		{"the wrong type", `offset > "a"`, 1, 8, "no matching overload"},
		{"not a bool", `offset + 1`, 1, 1, "must be of type bool"},
		{"perhaps a bool", `value.paid`, 1, 1, "is of type dyn"},
		{"an unknown function", `key.frobnicate()`, 1, 15, "undeclared reference to 'frobnicate'"},
		{"a pattern that does not compile", `key.matches("(")`, 1, 13, "invalid matches"},
		{"a pattern from the record", `key.matches(topic)`, 1, 13, "must be a literal"},
		{"look-behind, which RE2 has not", `key.matches("(?<=a)b")`, 1, 13, "invalid matches"},
		{"too long", strings.Repeat("true||", 800) + "true", 1, 1, "at most 4096 bytes"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Compile(c.expression)
			e, ok := errors.AsType[*Error](err)
			if !ok {
				t.Fatalf("Compile(%q) = %v, want an *Error", c.expression, err)
			}
			if e.Line != c.line || e.Column != c.column || !strings.Contains(e.Reason, c.about) {
				t.Errorf("Compile(%q) says %v; want line %d, column %d and %q", c.expression, e, c.line, c.column, c.about)
			}
			if strings.ContainsAny(e.Error(), "\n\r") || strings.Contains(e.Error(), "container") {
				t.Errorf("%q is not fit to be shown", e.Error())
			}
		})
	}
}

func TestOneFilterServesManyPartitionsAtOnce(t *testing.T) {
	f := compiled(t, `value.n == offset - 1200 && headers["region"] == "eu"`)
	var running sync.WaitGroup
	for g := range 8 {
		running.Go(func() {
			b := order(fmt.Sprintf(`{"n":%d}`, g%2)).batch()
			for range 500 {
				if pass, err := f.Match("orders", 3, b, 0); err != nil || pass != (g%2 == 0) {
					t.Errorf("%v, %v for n = %d", pass, err, g%2)
					return
				}
			}
		})
	}
	running.Wait()
}

func TestWhyARecordCouldNotBeEvaluatedTellsNothingOfTheRecord(t *testing.T) {
	f := compiled(t, "tombstone ||\n  int(value.secret) > 3")
	_, err := f.Match("t", 0, order(`{"secret":"hunter2"}`).batch(), 0)
	if err == nil {
		t.Fatal("a word is no int")
	}
	if text := f.Explain(err); strings.Contains(text, "hunter2") || !strings.Contains(text, "line 2") {
		t.Errorf("Explain: %q", text)
	}
}
