package receiver

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
)

var (
	ourKey   = []byte("0123456789abcdef0123456789abcdef")
	otherKey = []byte("fedcba9876543210fedcba9876543210")

	private      = ed25519.NewKeyFromSeed(ourKey)
	otherPrivate = ed25519.NewKeyFromSeed(otherKey)
)

func whsec(key []byte) string { return "whsec_" + base64.StdEncoding.EncodeToString(key) }

func whpk(key ed25519.PrivateKey) string {
	return "whpk_" + base64.StdEncoding.EncodeToString(key.Public().(ed25519.PublicKey))
}

func secrets(t testing.TB, texts ...string) Secrets {
	t.Helper()
	s, err := ParseSecrets(texts...)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// v1 signs with the reference library.
func v1(t testing.TB, key []byte, id string, at time.Time, body string) string {
	t.Helper()
	w, err := standardwebhooks.NewWebhookRaw(key)
	if err != nil {
		t.Fatal(err)
	}
	signature, err := w.Sign(id, at, []byte(body))
	if err != nil {
		t.Fatal(err)
	}
	return signature
}

func v1a(key ed25519.PrivateKey, id string, at time.Time, body string) string {
	signature := ed25519.Sign(key, fmt.Appendf(nil, "%s.%d.%s", id, at.Unix(), body))
	return "v1a," + base64.StdEncoding.EncodeToString(signature)
}

// signed is the header of a request.
func signed(id string, at time.Time, signatures ...string) http.Header {
	h := http.Header{}
	h.Set(headerID, id)
	h.Set(headerTimestamp, strconv.FormatInt(at.Unix(), 10))
	h.Set(headerSignature, strings.Join(signatures, " "))
	return h
}

func TestVerify(t *testing.T) {
	const id, body = "dl_1", `{"a":1}`
	now := time.Now()
	ours, other := v1(t, ourKey, id, now, body), v1(t, otherKey, id, now, body)
	public, otherPublic := v1a(private, id, now, body), v1a(otherPrivate, id, now, body)
	with := func(name string, values ...string) http.Header {
		h := signed(id, now, ours)
		h[name] = values
		return h
	}
	tests := map[string]struct {
		secrets []string // default: ours
		header  http.Header
		body    string // default: the one that was signed
		want    error
	}{
		"signed with the secret":                         {header: signed(id, now, ours)},
		"an empty body can be signed":                    {header: signed(id, now, v1(t, ourKey, id, now, "")), body: "-"},
		"the new one of two secrets signed":              {secrets: []string{whsec(ourKey), whsec(otherKey)}, header: signed(id, now, other)},
		"the old one of two secrets signed":              {secrets: []string{whsec(otherKey), whsec(ourKey)}, header: signed(id, now, ours)},
		"both signed and one is known":                   {header: signed(id, now, other, ours)},
		"both signed and the other one is known":         {header: signed(id, now, ours, other)},
		"signatures in two header lines":                 {header: with(headerSignature, other, ours)},
		"signatures of later versions are passed over":   {header: signed(id, now, "v2,eA==", "v1b", ",", ours)},
		"signed with the key pair":                       {secrets: []string{whpk(private)}, header: signed(id, now, public)},
		"signed with the second key pair":                {secrets: []string{whpk(otherPrivate), whpk(private)}, header: signed(id, now, public)},
		"both kinds and only the public key is known":    {secrets: []string{whpk(private)}, header: signed(id, now, ours, public)},
		"both kinds and only the secret is known":        {header: signed(id, now, public, ours)},
		"a secret and a public key, signed with neither": {secrets: []string{whsec(ourKey), whpk(private)}, header: signed(id, now, other, otherPublic), want: ErrSignature},

		"signed with another secret":               {header: signed(id, now, other), want: ErrSignature},
		"signed with another key pair":             {secrets: []string{whpk(private)}, header: signed(id, now, otherPublic), want: ErrSignature},
		"one bit of the body":                      {header: signed(id, now, ours), body: `{"a":3}`, want: ErrSignature},
		"one bit of the body, key pair":            {secrets: []string{whpk(private)}, header: signed(id, now, public), body: `{"a":3}`, want: ErrSignature},
		"a longer body":                            {header: signed(id, now, ours), body: body + " ", want: ErrSignature},
		"another id":                               {header: signed("dl_2", now, ours), want: ErrSignature},
		"another timestamp":                        {header: signed(id, now.Add(time.Second), ours), want: ErrSignature},
		"another timestamp, key pair":              {secrets: []string{whpk(private)}, header: signed(id, now.Add(time.Second), public), want: ErrSignature},
		"the signature of the other kind":          {header: signed(id, now, "v1"+strings.TrimPrefix(public, "v1a")), want: ErrSignature},
		"v1 is not good for v1a":                   {secrets: []string{whpk(private)}, header: signed(id, now, "v1a"+strings.TrimPrefix(ours, "v1")), want: ErrSignature},
		"no version":                               {header: signed(id, now, strings.TrimPrefix(ours, "v1,")), want: ErrSignature},
		"a part of the signature":                  {header: signed(id, now, ours[:len(ours)-4]), want: ErrSignature},
		"an empty signature":                       {header: signed(id, now, "v1,"), want: ErrSignature},
		"an empty signature, key pair":             {secrets: []string{whpk(private)}, header: signed(id, now, "v1a,"), want: ErrSignature},
		"more signatures than anyone needs":        {header: signed(id, now, strings.Repeat(other+" ", maxSignatures), ours), want: ErrSignature},
		"no signature":                             {header: with(headerSignature), want: ErrUnsigned},
		"only space for a signature":               {header: with(headerSignature, " "), want: ErrUnsigned},
		"no id":                                    {header: with(headerID), want: ErrUnsigned},
		"two ids":                                  {header: with(headerID, id, id), want: ErrUnsigned},
		"an id with a full stop":                   {header: with(headerID, "dl.1"), want: ErrUnsigned},
		"no timestamp":                             {header: with(headerTimestamp), want: ErrUnsigned},
		"two timestamps":                           {header: with(headerTimestamp, "1", "2"), want: ErrUnsigned},
		"a timestamp that is no number":            {header: with(headerTimestamp, "now"), want: ErrUnsigned},
		"a timestamp in another spelling":          {header: with(headerTimestamp, "+"+strconv.FormatInt(now.Unix(), 10)), want: ErrUnsigned},
		"a timestamp beyond 64 bits":               {header: with(headerTimestamp, "99999999999999999999"), want: ErrUnsigned},
		"the first timestamp there is":             {header: with(headerTimestamp, "-9223372036854775808"), want: ErrTooOld},
		"no headers at all":                        {header: http.Header{}, want: ErrUnsigned},
		"an hour ago, though signed":               {header: signed(id, now.Add(-time.Hour), v1(t, ourKey, id, now.Add(-time.Hour), body)), want: ErrTooOld},
		"in an hour, though signed":                {header: signed(id, now.Add(time.Hour), v1(t, ourKey, id, now.Add(time.Hour), body)), want: ErrTooNew},
		"what is old is not looked at any further": {header: signed(id, now.Add(-time.Hour), other), want: ErrTooOld},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if tt.secrets == nil {
				tt.secrets = []string{whsec(ourKey)}
			}
			switch tt.body {
			case "":
				tt.body = body
			case "-":
				tt.body = ""
			}
			if err := (Verifier{Secrets: secrets(t, tt.secrets...)}).Verify(tt.header, []byte(tt.body)); !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
		})
	}
}

func TestTheToleranceIsExact(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := Verifier{Secrets: secrets(t, whsec(ourKey))}
		hour := v
		hour.Tolerance = time.Hour
		tests := map[string]struct {
			v    Verifier
			late time.Duration
			want error
		}{
			"five minutes old":                  {v, 5 * time.Minute, nil},
			"a second older":                    {v, 5*time.Minute + time.Second, ErrTooOld},
			"five minutes early":                {v, -5 * time.Minute, nil},
			"a second earlier":                  {v, -5*time.Minute - time.Second, ErrTooNew},
			"an hour old where that is allowed": {hour, time.Hour, nil},
			"more than that":                    {hour, time.Hour + time.Second, ErrTooOld},
		}
		for name, tt := range tests {
			at := time.Now().Add(-tt.late)
			if err := tt.v.Verify(signed("dl_1", at, v1(t, ourKey, "dl_1", at, "x")), []byte("x")); !errors.Is(err, tt.want) {
				t.Errorf("%s: got %v, want %v", name, err, tt.want)
			}
		}
	})
}

func TestWithoutSecretsNothingVerifies(t *testing.T) {
	now := time.Now()
	h := signed("dl_1", now, v1(t, nil, "dl_1", now, "x"))
	if err := (Verifier{}).Verify(h, []byte("x")); !errors.Is(err, ErrSignature) {
		t.Errorf("got %v, want %v", err, ErrSignature)
	}
	if err := (Verifier{Secrets: Unsigned()}).Verify(http.Header{}, []byte("x")); err != nil {
		t.Errorf("signing is off, and the request is refused: %v", err)
	}
}

func TestParseSecrets(t *testing.T) {
	encoded := func(prefix string, n int) string {
		return prefix + base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{0xfb}, n))
	}
	good := map[string]string{
		"24 bytes":            encoded("whsec_", 24),
		"64 bytes":            encoded("whsec_", 64),
		"a public key":        encoded("whpk_", 32),
		"the end of its line": encoded(" whsec_", 32) + "\r\n",
	}
	for name, text := range good {
		if _, err := ParseSecrets(text); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	bad := map[string]string{
		"nothing":                     "",
		"only the prefix":             "whsec_",
		"23 bytes":                    encoded("whsec_", 23),
		"65 bytes":                    encoded("whsec_", 65),
		"no prefix":                   encoded("", 32),
		"a prefix of another case":    encoded("WHSEC_", 32),
		"a private key":               encoded("whsk_", 64),
		"a public key of 31 bytes":    encoded("whpk_", 31),
		"a public key of 64 bytes":    encoded("whpk_", 64),
		"base64 of URLs":              strings.ReplaceAll(encoded("whsec_", 32), "+", "-"),
		"no padding":                  strings.TrimRight(encoded("whsec_", 32), "="),
		"stray bits at the end":       encoded("whsec_", 32)[:len(encoded("whsec_", 32))-2] + "9=",
		"a line break in the midst":   encoded("whsec_", 30)[:20] + "\n" + encoded("whsec_", 30)[20:],
		"two of them in one":          encoded("whsec_", 32) + " " + encoded("whsec_", 32),
		"something that is no base64": "whsec_" + strings.Repeat("!", 44),
	}
	for name, text := range bad {
		_, err := ParseSecrets(whsec(ourKey), text)
		if !errors.Is(err, ErrSecret) {
			t.Errorf("%s: got %v, want %v", name, err, ErrSecret)
			continue
		}
		if rest := strings.TrimPrefix(text, "whsec_"); len(rest) > 8 && strings.Contains(err.Error(), rest[:8]) {
			t.Errorf("%s: the error repeats it: %v", name, err)
		}
		if !strings.Contains(err.Error(), "number 2") {
			t.Errorf("%s: the error does not say which one: %v", name, err)
		}
	}
	if _, err := ParseSecrets(); !errors.Is(err, ErrSecret) {
		t.Errorf("none: got %v, want %v", err, ErrSecret)
	}
}

func TestSecretsAreNotPrinted(t *testing.T) {
	s := secrets(t, whsec(ourKey), whpk(private))
	var logged bytes.Buffer
	slog.New(slog.NewTextHandler(&logged, nil)).Info("x", "secrets", s, "verifier", Verifier{Secrets: s})
	slog.New(slog.NewJSONHandler(&logged, nil)).Info("x", "secrets", s, "verifier", Verifier{Secrets: s})
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		fmt.Fprintf(&logged, verb+verb+verb+"\n", s, &s, Verifier{Secrets: s})
	}
	for _, secret := range []string{string(ourKey), fmt.Sprintf("%x", ourKey), "48 49 50", "0x30, 0x31"} {
		if strings.Contains(logged.String(), secret) {
			t.Errorf("printing gives %q away:\n%s", secret, &logged)
		}
	}
	if !strings.Contains(logged.String(), "2 secrets") {
		t.Errorf("printing says\n%s", &logged)
	}
}

// FuzzVerify compares with the reference library. What verifies here verifies there;
// the other way round there are three things that we are stricter about.
func FuzzVerify(f *testing.F) {
	now := time.Now()
	stamp := strconv.FormatInt(now.Unix(), 10)
	f.Add(ourKey, "dl_1", stamp, v1(f, ourKey, "dl_1", now, "{}"), []byte("{}"))
	f.Add(ourKey, "dl_1", stamp, "v1a,x "+v1(f, otherKey, "dl_1", now, "{}")+" "+v1(f, ourKey, "dl_1", now, "{}"), []byte("{}"))
	f.Add(otherKey, "dl_1", "+"+stamp, v1a(private, "dl_1", now, "{}"), []byte("{}"))
	f.Add(otherKey, "dl.1", "", "v1,,", []byte(nil))
	f.Fuzz(func(t *testing.T, key []byte, id, timestamp, signature string, body []byte) {
		if len(key) < minSecret || len(key) > maxSecret {
			return
		}
		h := http.Header{headerID: {id}, headerTimestamp: {timestamp}, headerSignature: {signature}}
		reference, err := standardwebhooks.NewWebhookRaw(key)
		if err != nil {
			t.Fatal(err)
		}
		v := Verifier{Secrets: secrets(t, whsec(key), whpk(private))}
		got, want := v.Verify(h, body), reference.Verify(body, h)
		switch {
		case got == nil && want != nil:
			if !strings.Contains(signature, "v1a,") {
				t.Errorf("verifies, and does not by the reference: %v", want)
			}
		case got == nil:
		case !errors.Is(got, ErrUnsigned) && !errors.Is(got, ErrSignature) && !errors.Is(got, ErrTooOld) && !errors.Is(got, ErrTooNew):
			t.Errorf("an error that nobody knows: %v", got)
		case want == nil && !strings.Contains(id, ".") && strings.Trim(timestamp, "0123456789") == "" && timestamp[0] != '0' &&
			strings.Count(signature, "v") < maxSignatures && !strings.ContainsAny(signature, "\t\n\v\f\r\u0085\u00a0") && strings.Count(signature, ",") == 1:
			t.Errorf("does not verify (%v), and does by the reference", got)
		}

		// What is signed as it should be verifies, whatever it is.
		if id != "" && !strings.Contains(id, ".") {
			at := time.Now()
			for _, signature := range []string{v1(t, key, id, at, string(body)), v1a(private, id, at, string(body))} {
				if err := v.Verify(signed(id, at, signature), body); err != nil {
					t.Errorf("%s does not verify: %v", signature, err)
				}
			}
		}
	})
}
