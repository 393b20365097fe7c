package webhooks

import (
	"encoding/json"
	"strings"
	"testing"
)

// checkURLsRefused registers URLs, as the receiver's and as that of lifecycle
// calls, and wants them refused as not allowed, in words that do not repeat them.
func checkURLsRefused(t *testing.T, urls ...string) {
	t.Helper()
	for _, text := range urls {
		for _, body := range []map[string]any{
			{"url": text, "topics": []string{"t"}},
			{"url": "https://example.com", "topics": []string{"t"}, "lifecycle": map[string]any{"url": text}},
		} {
			data, err := json.Marshal(body)
			if err != nil {
				t.Fatal(err)
			}
			_, err = Decode(data, "a")
			invalid, ok := err.(*ValidationError)
			if !ok || !invalid.URLNotAllowed() || len(invalid.Fields) != 1 {
				t.Errorf("%q: %v, want it not allowed, and no more", text, err)
			} else if strings.Contains(invalid.Error(), "s3cret") {
				t.Errorf("%q: the complaint repeats it: %v", text, err)
			}
		}
	}
}

// urlOf is a URL as it is kept.
func urlOf(t *testing.T, text string) string {
	t.Helper()
	data, err := json.Marshal(map[string]any{"url": text, "topics": []string{"t"}, "lifecycle": map[string]any{"url": text}})
	if err != nil {
		t.Fatal(err)
	}
	w, err := Decode(data, "a")
	if err != nil {
		t.Errorf("%q: %v, want it taken", text, err)
		return ""
	}
	if w.Lifecycle.URL != w.URL {
		t.Errorf("%q is kept as %q, and for lifecycle calls as %q", text, w.URL, w.Lifecycle.URL)
	}
	return w.URL
}

// TestU1_Schemes: whether http is allowed is the policy's to say, in package egress.
func TestU1_Schemes(t *testing.T) {
	checkURLsRefused(t, "ftp://example.com/s3cret", "file:///etc/passwd", "gopher://example.com/", "unix:/run/x.sock", "javascript:alert(1)",
		"example.com/hook", "/hook", "https:///s3cret", "https:example.com", "https://:443/", "ws://example.com/", "//example.com/")
	if got := urlOf(t, "https://example.com/a"); got != "https://example.com/a" {
		t.Errorf("kept as %q", got)
	}
}

func TestU2_Credentials(t *testing.T) {
	checkURLsRefused(t, "https://user:s3cret@example.com/", "https://user@example.com/", "https://@example.com/", "https://:@example.com/", "https://example.com:s3cret@example.org/")
}

func TestU3_OddNumbers(t *testing.T) {
	checkURLsRefused(t, "https://2130706433/", "https://0x7f000001/", "https://0X7F.1/", "https://0177.0.0.1/", "https://127.1/", "https://127.0.0.1./",
		"https://127.0.0.0x1/", "https://example.0x/", "https://1.2.3.4.5/", "https://256.0.0.1/", "https://8.8.8.8.:443/",
		"https://१२७.०.०.१/", "https://１２７.０.０.１/", "https://127。0。0。1/", "https://example．com/", "https://[127.0.0.1]/", "https://[fe80::1%25eth0]/",
		"https://[::1/", "https://::1/", "https://[]/")
	for _, fine := range []string{"https://8.8.8.8/", "https://[2606:4700::1]:443/", "https://4.example.com/", "https://0x7f.example.com/", "https://1password.example/", "https://a.0xg/"} {
		if got := urlOf(t, fine); got != fine {
			t.Errorf("%q is kept as %q", fine, got)
		}
	}
}

func TestU5_PortsThatAreNone(t *testing.T) {
	checkURLsRefused(t, "https://example.com:80:80/", "https://example.com:0/", "https://example.com:65536/", "https://example.com:/", "https://example.com:-1/", "https://example.com:https/", "https://example.com:４４３/")
}

func TestU6_NamesInOtherLetters(t *testing.T) {
	for text, want := range map[string]string{
		"https://bücher.example/ü-less?q=%C3%BC":  "",
		"https://bücher.example/hook":             "https://xn--bcher-kva.example/hook",
		"https://bücher.example:443/bücher":       "",
		"https://bücher.example:443/hook":         "https://xn--bcher-kva.example:443/hook",
		"https://bücher.example./":                "https://xn--bcher-kva.example./",
		"https://пример.испытание/":               "https://xn--e1afmkfd.xn--80akhbyknj4f/",
		"https://xn--bcher-kva.example/":          "https://xn--bcher-kva.example/",
		"https://раураl.example/":                 "https://xn--l-7sba6dbr.example/", // Cyrillic but for the last letter
		"https://bücher.example/?next=bücher.com": "",
	} {
		if want != "" {
			if got := urlOf(t, text); got != want {
				t.Errorf("%q is kept as %q, want %q", text, got, want)
			}
			continue
		}
		if _, err := Decode([]byte(`{"topics":["t"],"url":"`+text+`"}`), "a"); err == nil {
			t.Errorf("%q is taken, want it percent-encoded", text)
		}
	}
	checkURLsRefused(t, "https://BÜCHER.example/", "https://ｅｘａｍｐｌｅ.com/", "https://exa\u200bmple.com/", "https://\u202eexample.com/", "https://a\u3002example/")
}

func TestU7_CharactersAndLength(t *testing.T) {
	checkURLsRefused(t, "https://example.com/#a", "https://example.com/#", "https://example.com/a b", "https://example.com/\r\nHost: s3cret", "https://example.com/\x00",
		"https://example.com/\x7f", "https://example.com\\@evil.example/", `https://example.com/a\b`, " https://example.com/", "https://example.com/\t",
		"https://example.com/"+strings.Repeat("a", 2029))
}

// TestOtherMistakesStayValidationFailed: what is no question of what may be reached.
func TestOtherMistakesStayValidationFailed(t *testing.T) {
	for claim, body := range map[string]string{
		"no url":                    `{"topics":["t"]}`,
		"an empty one":              `{"topics":["t"],"url":""}`,
		"a number":                  `{"topics":["t"],"url":7}`,
		"a percent sign":            `{"topics":["t"],"url":"https://example.com/%zz"}`,
		"a host with two dots":      `{"topics":["t"],"url":"https://example..com/"}`,
		"another mistake besides":   `{"topics":[],"url":"ftp://example.com/"}`,
		"an ü in the path":          `{"topics":["t"],"url":"https://example.com/ü"}`,
		"lifecycle calls to no url": `{"topics":["t"],"url":"https://example.com/","lifecycle":{}}`,
	} {
		_, err := Decode([]byte(body), "a")
		if invalid, ok := err.(*ValidationError); !ok || invalid.URLNotAllowed() {
			t.Errorf("%s: %v, want it not valid", claim, err)
		}
	}
}

func FuzzPunycode(f *testing.F) {
	for _, text := range []string{"https://bücher.example/ü", "https://a:b@ü/", "http://[ü]:1/", "ü", "https://ü.ü.:8/?ü#ü", "https://%C3%BC/"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		once := punycode(text)
		if again := punycode(once); again != once {
			t.Errorf("%q becomes %q, and that %q", text, once, again)
		}
		if isASCII(text) && once != text {
			t.Errorf("%q becomes %q", text, once)
		}
	})
}
