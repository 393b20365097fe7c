package delivery

import (
	"bytes"
	"encoding/json"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

// validAndUTF8 is what the validator has to agree with.
func validAndUTF8(b []byte) bool { return json.Valid(b) && utf8.Valid(b) }

var jsonTexts = []string{
	``, ` `, `1`, `-`, `-1`, `-0`, `00`, `01`, `0.`, `0.5`, `.5`, `1e`, `1e5`, `1E+5`, `1e-`, `1e400`, `+1`, `1 2`,
	`nul`, `null`, `nulll`, ` null `, `true`, `tru`, `false`, `fals`, `falsey`, `NaN`, `Infinity`,
	`""`, `"`, `"a`, `"a"`, `"\"`, `"\\"`, `"\u12"`, `"\u12zf"`, `"\u12AF"`, `"\x"`, `"\/"`, "\"\n\"", "\"\x1f\"", "\"\x7f\"",
	"\"\xff\"", "\"\xc3\"", "\"é\"", "\"\u2028\"", "\"\xed\xa0\x80\"", `"\ud800"`, "\"12345678\xf0\x9f\x98\x80 \"", "\xff", "é",
	`{}`, `{ }`, `{`, `}`, `{]`, `[}`, `[]`, `[ ]`, `[`, `]`, `[,]`, `[1,]`, `[1,2]`, `[1 2]`, `[[],{}]`, `[[[]]`, `[[]]]`,
	`{"a"}`, `{"a":}`, `{"a":1}`, `{"a":1,}`, `{"a":1,"a":2}`, `{1:2}`, `{"a" : [ {"b": null } , "c" ] }`, `{"a":1 "b":2}`, `{,}`, `{"a":{"b":{"c":[]}}}`,
	"\t\r\n [ 1 ]\v", "\ufeff{}", `{"a":1}x`, `[{"a":[1]},2]`, `{"a":[1,{"b":2}],"c":3}`, "[\x00]", `"abcdefg`, `"abcdefgh"`, `"abcdefghi\n"`,
}

func TestValidatorAgreesWithTheStandardLibrary(t *testing.T) {
	var v validator
	for _, text := range jsonTexts {
		if got, want := v.valid([]byte(text), 0), validAndUTF8([]byte(text)); got != want {
			t.Errorf("valid(%q) = %v, want %v", text, got, want)
		}
	}
}

// TestValidatorAgreesOnDamagedTexts changes, drops and doubles bytes of texts that
// are mostly valid, where a wrong validator would show.
func TestValidatorAgreesOnDamagedTexts(t *testing.T) {
	const damage = "{}[]\",:\\ntf0-+.eEu/ \n\x1f\x7f\x80\xc3\xff"
	texts := append([]string{string(jsonValue(300)), `{"a":[1,-2.5e+3,{"b":"\u00e9 é \\ \/"},[],{}],"c":[true,false,null,[[[]]]]}`}, jsonTexts...)
	rnd := rand.New(rand.NewPCG(1, 2))
	var v validator
	valid := 0
	for range 50_000 {
		b := []byte(texts[rnd.IntN(len(texts))])
		for range 1 + rnd.IntN(2) {
			if i := rnd.IntN(len(b) + 1); i < len(b) {
				switch rnd.IntN(3) {
				case 0:
					b[i] = damage[rnd.IntN(len(damage))]
				case 1:
					b = slices.Delete(b, i, i+1)
				case 2:
					b = slices.Insert(b, i, b[i])
				}
			}
		}
		got, want := v.valid(b, 0), validAndUTF8(b)
		if got != want {
			t.Fatalf("valid(%q) = %v, want %v", b, got, want)
		}
		if got {
			valid++
		}
	}
	if valid < 1_000 {
		t.Errorf("only %d texts were valid", valid)
	}
}

// TestValidatorKeepsEnvelopesReadable: a value of 10,000 levels, which encoding/json
// takes by itself, made an envelope that it refused, and its partition stood still.
func TestValidatorKeepsEnvelopesReadable(t *testing.T) {
	var v validator
	for _, level := range []struct{ open, close string }{{"[", "]"}, {`{"a":`, "}"}, {`[{"a":`, "}]"}} {
		per := strings.Count(level.open, "[") + strings.Count(level.open, "{")
		for _, depth := range []int{63, 64, 65, maxNesting - per, maxNesting, maxNesting + per, maxNesting + 3*per, 100_000} {
			depth -= depth % per
			text := strings.Repeat(level.open, depth/per) + "1" + strings.Repeat(level.close, depth/per)
			whole := json.Valid([]byte(`{"records":[{"value":` + text + `}]}`))
			got, want := v.valid([]byte(text), 0), depth <= maxNesting
			if got != want || got != whole {
				t.Errorf("%d levels of %s: valid = %v, the envelope is %v, want %v", depth, level.open, got, whole, want)
			}
		}
	}
	empty := strings.Repeat("[", maxNesting+1) + strings.Repeat("]", maxNesting+1)
	if v.valid([]byte(empty), 0) {
		t.Error("an empty array one level too deep is valid")
	}
}

func TestEmbeddableIsAnyJSONButNull(t *testing.T) {
	var v validator
	for text, want := range map[string]bool{
		`null`: false, " null\n": false, ``: false, `"null"`: true, `[null]`: true, ` {"a":null} `: true, `0`: true, `nan`: false,
	} {
		if got := v.embeddable([]byte(text)); got != want {
			t.Errorf("embeddable(%q) = %v, want %v", text, got, want)
		}
	}
}

func FuzzValidator(f *testing.F) {
	for _, text := range jsonTexts {
		f.Add([]byte(text))
	}
	f.Add([]byte(strings.Repeat("[", 200) + strings.Repeat("]", 200)))
	f.Fuzz(func(t *testing.T, b []byte) {
		var v validator
		for i := range v.outer {
			v.outer[i] = 0xaaaaaaaaaaaaaaaa // what an earlier text may have left there
		}
		if got, want := v.valid(b, 0), validAndUTF8(b); got != want {
			t.Errorf("valid(%q) = %v, want %v", b, got, want)
		}
	})
}

func FuzzString(f *testing.F) {
	for c := range 256 {
		f.Add(append([]byte("12345678"), byte(c)))
		f.Add([]byte{byte(c), 'a'})
	}
	f.Add([]byte("\u2028\u2029 é \U0001F600 \"\\\b\f\n\r\t</script>"))
	f.Fuzz(func(t *testing.T, s []byte) {
		text, ok := appendString([]byte("before"), s)
		if want := utf8.Valid(s); ok != want {
			t.Fatalf("appendString(%q) reports %v, want %v", s, ok, want)
		}
		if !ok {
			return
		}
		var got string
		if err := json.Unmarshal(text[len("before"):], &got); err != nil || got != string(s) {
			t.Fatalf("%q was written as %s, which reads %q, %v", s, text, got, err)
		}
		if again := appendQuoted([]byte("before"), string(s)); !bytes.Equal(again, text) {
			t.Fatalf("%q as a string was written as %s, want %s", s, again, text)
		}
	})
}
