package webhooks

import (
	"errors"
	"strings"
	"testing"
)

func TestAFilterIsComplainedAboutWithItsPlace(t *testing.T) {
	for _, c := range []struct{ name, filter, want string }{
		{"none", `null`, ""},
		{"one that is fine", `"value.total > 100"`, ""},
		{"a name that is unknown", `"!tombstone &&\n  vlaue.total > 100"`, "is not a filter: line 2, column 3: undeclared reference to 'vlaue'"},
		{"not true or false", `"value.total"`, "is not a filter: line 1, column 1: is of type dyn and must be of type bool"},
		{"nothing", `""`, "is not a filter: line 1, column 1: "},
		{"too long", `"` + strings.Repeat("!", 5000) + `true"`, "is not a filter: line 1, column 1: must be at most 4096 bytes"},
		{"not text", `true`, "must be a string"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w, err := Decode([]byte(`{"url": "https://example.com/", "topics": ["orders"], "filter": `+c.filter+`}`), "a")
			if c.want == "" {
				if err != nil || (w.Filter == nil) != (c.filter == "null") {
					t.Errorf("%v, %v", w.Filter, err)
				}
				return
			}
			invalid, ok := errors.AsType[*ValidationError](err)
			if !ok || len(invalid.Fields) != 1 || invalid.Fields[0].Pointer != "/filter" || !strings.HasPrefix(invalid.Fields[0].Detail, c.want) {
				t.Errorf("Decode: %v, want that /filter %s", err, c.want)
			}
		})
	}
}

func TestTheFilterIsContent(t *testing.T) {
	a, b := valid(), valid()
	b.Filter = new("true")
	if sameContent(a, b) || !sameContent(b, b.Clone()) {
		t.Error("webhooks are alike that differ in their filter, or differ though alike")
	}
}
