package filter

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// patience is far above what the budgets allow and far below what they prevent.
const patience = 5 * time.Second

// list is a JSON list of n numbers.
func list(n int) string { return "[" + strings.TrimSuffix(strings.Repeat("1,", n), ",") + "]" }

// TestP10_ExpressionsThatExplode: an expression either is refused when it is
// registered or ends within its budget, whatever the record.
func TestP10_ExpressionsThatExplode(t *testing.T) {
	nested := func(n int) string {
		e := "true"
		for i := range n {
			e = fmt.Sprintf("value.l.all(v%d, %s)", i, e)
		}
		return e
	}
	doubled := func(start, step, end string, n int) string { return start + strings.Repeat(step, n) + end }
	thousand := sample{key: []byte("k"), value: []byte(`{"l":` + list(1000) + `,"s":"` + strings.Repeat("x", 10_000) + `"}`)}
	huge := sample{value: []byte(`{"l":` + list(200_000) + `,"s":"` + strings.Repeat("a", 8<<20) + `"}`)}
	for _, c := range []struct {
		name, expression string
		of               sample
		refused          bool
	}{
		{"loops within loops", nested(3), thousand, true},
		{"deeper than may be", nested(4), thousand, true},
		{"two loops over a large list", nested(2), thousand, false},
		{"a loop over a huge list", `value.l.all(v, v == 1 && v < 2 && v > 0)`, huge, false},
		{"a list that doubles by itself", doubled(`dyn([1]`, `.map(x, dyn([x, x]))`, `) == dyn(1)`, 40), thousand, false},
		{"a list that doubles by reference", doubled(`optional.of(value.l)`, `.optMap(x, dyn([x, x]))`, `.orValue([]) == value.l`, 40), thousand, false},
		{"a list that doubles by addition", doubled(`optional.of(value.l)`, `.optMap(x, x + x)`, `.orValue([]) == [1]`, 40), thousand, false},
		{"is in a list that doubles", doubled(`2 in optional.of(value.l)`, `.optMap(x, x + x)`, `.orValue([])`, 40), thousand, false},
		{"a string that doubles", doubled(`[value.s]`, `.map(x, x + x)`, ` == ["a"]`, 40), thousand, false},
		{"one huge string compared again and again", `value.l.all(v, value.s == value.s + "")`, huge, false},
		{"a huge string converted again and again", `value.l.all(v, size(string(value_bytes)) > 0)`, huge, false},
		{"a time zone in a loop", `value.l.all(v, timestamp.getHours("Europe/Berlin") >= 0)`, thousand, false},
		{"a large pattern on a huge text", `value.s.matches("(a|aa|aaa){100}b")`, huge, false},
		{"nested repetition", `value.s.matches("((a{1,30}){1,30}){1,30}")`, huge, true},
		{"a pattern that backtracks elsewhere", `value.s.matches("^(a+)+$")`, thousand, false},
		{"parentheses", strings.Repeat("(", 1500) + "true" + strings.Repeat(")", 1500), thousand, true},
		{"negations", strings.Repeat("!", 4000) + "true", thousand, false},
		{"macros within macros", strings.Repeat("[1].all(a,", 300) + "true" + strings.Repeat(")", 300), thousand, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			start := time.Now()
			f, err := Compile(c.expression)
			if refused := err != nil; refused && !c.refused {
				t.Logf("refused: %v", err)
			} else if c.refused && !refused {
				t.Error("was not refused")
			}
			if err == nil {
				b := c.of.batch()
				pass, err := f.Match("t", 0, b, 0)
				t.Logf("the record %s (%v)", outcome(pass, err), err)
			}
			took := time.Since(start)
			t.Logf("took %v", took)
			if took > patience {
				t.Errorf("took %v", took)
			}
		})
	}
}

// A long text is compared with every one in a list, and no less in a loop.
func TestALongTextThatIsLookedForInALoopIsPaidFor(t *testing.T) {
	text := `"` + strings.Repeat("a", 400_000)
	long := sample{value: []byte(`{"l":` + list(5_000) + `,"s":` + text + `a","t":[` + text + `b"]}`)}
	b := long.batch()
	if pass, err := compiled(t, `value.s in value.t`).Match("t", 0, b, 0); pass || err != nil {
		t.Errorf("looked for once: %s (%v), want it judged", outcome(pass, err), err)
	}
	f := compiled(t, `value.l.exists(v, value.s in value.t)`)
	if pass, err := f.Match("t", 0, b, 0); err == nil || f.Explain(err) != "it takes too many steps" {
		t.Errorf("looked for 5,000 times: %s (%v), want too many steps", outcome(pass, err), err)
	}
}

func TestWhatOrdinaryFiltersCostIsFarBelowTheBudget(t *testing.T) {
	for _, expression := range []string{
		`value.total > 100`,
		`value.items.exists(i, i.sku == "a" && i.qty > 2)`,
		`value.orders.exists(o, o.items.exists(i, i.sku.startsWith("a")))`,
		`value.customer.country in ["DE", "AT", "CH"] && !tombstone && headers["x"].matches("^[a-z]{1,20}$")`,
	} {
		compiled(t, expression)
	}
}

// FuzzCompile: whatever the text, Compile returns soon, with a filter or an *Error
// fit to be shown, and a filter does not break on any record.
func FuzzCompile(f *testing.F) {
	for _, seed := range []string{
		`value.total > 100 && key.startsWith("o-")`, `value.items.exists(i, i.qty > 1)`, `has(value.a) || !tombstone`,
		`headers["region"] in ["eu", "us"]`, `timestamp > timestamp("2026-01-01T00:00:00Z")`, `key.matches("^a+$")`,
		`value.?a.?b.orValue(1) == 1`, `[1].map(x, [x, x]).map(x, [x, x]) == []`, `offset % 2 == 0`, `(`, `"\ud800"`, "a\x00b",
	} {
		f.Add(seed, []byte("k"), []byte(`{"total":1,"items":[{"qty":2}],"a":{"b":1}}`), int64(5))
	}
	f.Fuzz(func(t *testing.T, expression string, key, value []byte, at int64) {
		start := time.Now()
		filter, err := Compile(expression)
		if err != nil {
			e, ok := err.(*Error)
			if !ok || e.Line < 1 || e.Column < 1 || e.Reason == "" || len(e.Reason) > maxReason+3 || strings.ContainsAny(e.Reason, "\n\r\x00") {
				t.Fatalf("Compile(%q) = %#v", expression, err)
			}
			return
		}
		s := sample{key: key, value: value, timestamp: at, headers: [][2]string{{string(key), string(value)}}}
		b := s.batch()
		pass, err := filter.Match("orders", 1, b, 0)
		if err != nil && filter.Explain(err) == "" {
			t.Fatalf("%q: nothing explains %v", expression, err)
		}
		if again, err2 := filter.Match("orders", 1, b, 0); again != pass || (err == nil) != (err2 == nil) {
			t.Fatalf("%q says %v, %v and then %v, %v of the same record", expression, pass, err, again, err2)
		}
		if took := time.Since(start); took > patience {
			t.Fatalf("%q took %v", expression, took)
		}
	})
}
