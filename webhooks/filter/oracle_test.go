package filter

import (
	"encoding/json"
	"fmt"
	"strconv"
	"testing"

	"pgregory.net/rapid"
)

// term is a condition that is written as an expression and judged by a few lines
// of Go as well. The oracle knows three outcomes, as CEL does: an error on one
// side of && and || gives way to what the other side decides.
type term struct {
	text  string
	judge func(row) verdict
}

type verdict int8 // -1: an error

// row is a record of the model; fields that are nil are not in its JSON.
type row struct {
	A      *int64  `json:"a,omitempty"`
	B      *string `json:"b,omitempty"`
	L      []int64 `json:"l"`
	offset int64
}

func truth(b bool) verdict {
	if b {
		return 1
	}
	return 0
}

func leaf(t *rapid.T) term {
	n := rapid.Int64Range(-3, 3).Draw(t, "n")
	switch rapid.IntRange(0, 5).Draw(t, "leaf") {
	case 0:
		return term{fmt.Sprintf("value.a > %d", n), func(r row) verdict {
			if r.A == nil {
				return -1
			}
			return truth(*r.A > n)
		}}
	case 1:
		return term{"has(value.a)", func(r row) verdict { return truth(r.A != nil) }}
	case 2:
		s := rapid.SampledFrom([]string{"", "x", "ü"}).Draw(t, "s")
		return term{"value.b == " + strconv.Quote(s), func(r row) verdict {
			if r.B == nil {
				return -1
			}
			return truth(*r.B == s)
		}}
	case 3:
		return term{fmt.Sprintf("value.l.exists(i, i == %d)", n), func(r row) verdict {
			for _, i := range r.L {
				if i == n {
					return 1
				}
			}
			return 0
		}}
	case 4:
		return term{fmt.Sprintf("offset %% 3 == %d", (n%3+3)%3), func(r row) verdict { return truth(r.offset%3 == (n%3+3)%3) }}
	default:
		return term{fmt.Sprintf("value.?a.orValue(0) < %d", n), func(r row) verdict {
			if r.A == nil {
				return truth(0 < n)
			}
			return truth(*r.A < n)
		}}
	}
}

func condition(t *rapid.T, depth int) term {
	if depth == 0 {
		return leaf(t)
	}
	switch rapid.IntRange(0, 3).Draw(t, "node") {
	case 0:
		x := condition(t, depth-1)
		return term{"!(" + x.text + ")", func(r row) verdict {
			if v := x.judge(r); v >= 0 {
				return 1 - v
			}
			return -1
		}}
	case 1:
		return join(t, depth, "&&", 0)
	case 2:
		return join(t, depth, "||", 1)
	default:
		return leaf(t)
	}
}

// join joins two conditions by an operator that one of them decides alone.
func join(t *rapid.T, depth int, operator string, decides verdict) term {
	x, y := condition(t, depth-1), condition(t, depth-1)
	return term{"(" + x.text + ") " + operator + " (" + y.text + ")", func(r row) verdict {
		switch a, b := x.judge(r), y.judge(r); {
		case a == decides || b == decides:
			return decides
		case a < 0 || b < 0:
			return -1
		default:
			return 1 - decides
		}
	}}
}

func TestFiltersSayWhatANaiveReaderOfTheExpressionSays(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := condition(t, rapid.IntRange(0, 4).Draw(t, "depth"))
		f, err := Compile(c.text)
		if err != nil {
			if len(c.text) > 1000 {
				t.Skip("too much of it")
			}
			t.Fatalf("Compile(%q): %v", c.text, err)
		}
		for range 5 {
			r := row{L: rapid.SliceOfN(rapid.Int64Range(-3, 3), 0, 4).Draw(t, "l"), offset: 1200}
			if rapid.Bool().Draw(t, "has a") {
				r.A = new(rapid.Int64Range(-4, 4).Draw(t, "a"))
			}
			if rapid.Bool().Draw(t, "has b") {
				r.B = new(rapid.SampledFrom([]string{"", "x", "ü"}).Draw(t, "b"))
			}
			value, err := json.Marshal(r)
			if err != nil {
				t.Fatal(err)
			}
			pass, err := f.Match("orders", 3, sample{value: value}.batch(), 0)
			got := truth(pass)
			if err != nil {
				got = -1
			}
			if want := c.judge(r); got != want {
				t.Fatalf("%s of %s: %d (%v), want %d", c.text, value, got, err, want)
			}
		}
	})
}

func BenchmarkMatch(b *testing.B) {
	s := order(`{"type":"order","total":250,"price":9.5,"items":[{"sku":"a-1","qty":3},{"sku":"b-2","qty":1}],"customer":{"country":"DE"}}`)
	batch := s.batch()
	for _, c := range []struct{ name, expression string }{
		{"key", `key.startsWith("o-")`},
		{"header", `headers["region"] == "eu"`},
		{"field", `value.total > 100`},
		{"in", `value.customer.country in ["DE", "AT", "CH"]`},
		{"exists", `value.items.exists(i, i.qty > 2)`},
		{"pattern", `key.matches("^o-[0-9]+$")`},
	} {
		b.Run(c.name, func(b *testing.B) {
			f := compiled(b, c.expression)
			b.ReportAllocs()
			for b.Loop() {
				if pass, err := f.Match("orders", 3, batch, 0); err != nil || !pass {
					b.Fatal(pass, err)
				}
			}
		})
	}
}
