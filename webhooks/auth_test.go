package webhooks

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"log/slog"
	"math/big"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kpush/kpush/webhooks/egress"
)

// testIdentity is a certificate for a client, and its key, in PEM.
func testIdentity(t *testing.T) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	block := func(kind string, data []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: data}))
	}
	return block("CERTIFICATE", der), block("PRIVATE KEY", pkcs8)
}

// auths are one good auth of each type, as they are asked for. All their secrets are
// "s3cret".
var auths = map[string]string{
	AuthBearer: `{"type":"bearer","token":"s3cret"}`,
	AuthBasic:  `{"type":"basic","username":"kpush","password":"s3cret"}`,
	AuthHeader: `{"type":"header","name":"X-Api-Id","value":"s3cret"}`,
	AuthOAuth2: `{"type":"oauth2","token_url":"https://login.example.com/token","client_id":"kpush","client_secret":"s3cret","scopes":["a","b:c"],"audience":"https://billing"}`,
}

func TestAuthIsReadAndShownWithoutItsSecret(t *testing.T) {
	for kind, text := range auths {
		w, err := Decode([]byte(`{`+minimal+`,"auth":`+text+`}`), "a")
		if err != nil {
			t.Errorf("%s: %v", kind, err)
			continue
		}
		for which, w := range map[string]Webhook{"itself": w, "masked": w.Masked()} {
			got, err := json.Marshal(w.Auth)
			want := text
			if which == "masked" {
				want = strings.ReplaceAll(text, "s3cret", Mask)
			}
			if err != nil || string(got) != want {
				t.Errorf("%s, %s: got %s, %v; want %s", kind, which, got, err, want)
			}
		}
		if w.Auth.FetchesTokens() != (kind == AuthOAuth2) {
			t.Errorf("%s fetches tokens: %v", kind, w.Auth.FetchesTokens())
		}
	}
	var none *Auth
	if _, _, ok := none.Header(); ok || none.FetchesTokens() {
		t.Error("there is a header without auth")
	}
	none.clone()
}

func TestAuthHeaders(t *testing.T) {
	for _, test := range []struct {
		auth        Auth
		name, value string
		ok          bool
	}{
		{Auth{Type: AuthBearer, Token: "abc"}, "authorization", "Bearer abc", true},
		{Auth{Type: AuthBasic, Username: "Aladdin", Password: "open sesame"}, "authorization", "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==", true},
		{Auth{Type: AuthBasic, Username: "test", Password: "123£"}, "authorization", "Basic dGVzdDoxMjPCow==", true}, // RFC 7617, 2.1
		{Auth{Type: AuthHeader, Name: "X-Key", Value: "abc"}, "x-key", "abc", true},
		{Auth{Type: AuthOAuth2}, "", "", false},
	} {
		if name, value, ok := test.auth.Header(); name != test.name || value != test.value || ok != test.ok {
			t.Errorf("%+v: got %q, %q, %v", test.auth, name, value, ok)
		}
	}
}

func TestAuthThatIsRefused(t *testing.T) {
	long := func(n int) string { return strings.Repeat("x", n) }
	edit := func(kind string, change func(map[string]any)) string {
		var o map[string]any
		if err := json.Unmarshal([]byte(auths[kind]), &o); err != nil {
			t.Fatal(err)
		}
		change(o)
		text, err := json.Marshal(o)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	set := func(kind, field string, value any) string {
		return edit(kind, func(o map[string]any) { o[field] = value })
	}
	without := func(kind, field string) string { return edit(kind, func(o map[string]any) { delete(o, field) }) }
	for _, test := range []struct {
		auth string
		want string // pointer complained about; "" if it is good
	}{
		{`null`, ""},
		{`{}`, "/auth/type"},
		{`[]`, "/auth"},
		{`{"type":"digest"}`, "/auth/type"},
		{set(AuthBearer, "colour", "red"), "/auth/colour"},
		{set(AuthBearer, "username", "s3cret"), "/auth/username"},
		{set(AuthBearer, "scopes", []string{"s3cret"}), "/auth/scopes"},
		{set(AuthBearer, "username", nil), ""},
		{set(AuthBearer, "token", 1), "/auth/token"},
		{set(AuthBearer, "token", "s3cret with spaces"), "/auth/token"},
		{set(AuthBearer, "token", "s3cret\r\nx: y"), "/auth/token"},
		{set(AuthBearer, "token", "sécret"), "/auth/token"},
		{set(AuthBearer, "token", long(4096)), ""},
		{set(AuthBearer, "token", long(4097)), "/auth/token"},
		{without(AuthBearer, "token"), "/auth/token"},
		{set(AuthBasic, "username", "s3c:ret"), "/auth/username"},
		{set(AuthBasic, "username", "s3c\nret"), "/auth/username"},
		{set(AuthBasic, "username", ""), ""},
		{set(AuthBasic, "username", "zoë"), ""},
		{without(AuthBasic, "password"), ""},
		{`{"type":"basic"}`, "/auth/username"},
		{set(AuthBasic, "password", "s3cret\x00"), "/auth/password"},
		{set(AuthBasic, "password", "with: colon and space "), ""},
		{set(AuthBasic, "password", long(1025)), "/auth/password"},
		{set(AuthHeader, "name", "Authorization"), ""},
		{set(AuthHeader, "name", "content-type"), "/auth/name"},
		{set(AuthHeader, "name", "Kpush-Loop"), "/auth/name"},
		{set(AuthHeader, "name", "Host"), "/auth/name"},
		{set(AuthHeader, "name", "s3cret name"), "/auth/name"},
		{without(AuthHeader, "name"), "/auth/name"},
		{set(AuthHeader, "value", "s3cret\nx: y"), "/auth/value"},
		{set(AuthHeader, "value", " s3cret"), "/auth/value"},
		{without(AuthHeader, "value"), "/auth/value"},
		{set(AuthHeader, "name", "X-Env"), "/request/headers/x-env"}, // which the webhook has
		{set(AuthOAuth2, "token_url", "ftp://s3cret/"), "/auth/token_url"},
		{set(AuthOAuth2, "token_url", "https://u:s3cret@login.example.com/"), "/auth/token_url"},
		{set(AuthOAuth2, "token_url", "https://2130706433/token"), "/auth/token_url"},
		{without(AuthOAuth2, "token_url"), "/auth/token_url"},
		{without(AuthOAuth2, "client_id"), "/auth/client_id"},
		{without(AuthOAuth2, "client_secret"), "/auth/client_secret"},
		{set(AuthOAuth2, "client_secret", "s3cret\n"), "/auth/client_secret"},
		{without(AuthOAuth2, "scopes"), ""},
		{without(AuthOAuth2, "audience"), ""},
		{set(AuthOAuth2, "scopes", []string{`s3"cret`}), "/auth/scopes"},
		{set(AuthOAuth2, "scopes", []string{""}), "/auth/scopes"},
		{set(AuthOAuth2, "scopes", []string{long(600), long(600)}), "/auth/scopes"},
		{set(AuthOAuth2, "scopes", "a b"), "/auth/scopes"},
		{set(AuthOAuth2, "audience", "s3cret\n"), "/auth/audience"},
	} {
		_, err := Decode([]byte(`{`+minimal+`,"request":{"headers":{"x-env":"prod"}},"auth":`+test.auth+`}`), "a")
		var want []string
		if test.want != "" {
			want = []string{test.want}
		}
		if diff := cmp.Diff(want, pointers(t, err)); diff != "" {
			t.Errorf("%s: complaints (-want +got):\n%s", test.auth, diff)
		}
		if err != nil && strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: the complaint repeats it: %v", test.auth, err)
		}
	}
}

// TestS5_TokenURLs: an endpoint for tokens is under the same rule as a receiver.
func TestS5_TokenURLs(t *testing.T) {
	guard := egress.New(egress.Policy{}, egress.Options{})
	for _, url := range []string{
		"https://127.0.0.1/token", "https://localhost/token", "https://169.254.169.254/token", "https://[::1]/token", "http://login.example.com/token",
		"https://login.internal/token", "https://login.example.com:6379/token",
	} {
		w, err := Decode([]byte(`{`+minimal+`,"auth":`+strings.Replace(auths[AuthOAuth2], "https://login.example.com/token", url, 1)+`}`), "a")
		if err != nil {
			t.Errorf("%s: %v", url, err)
			continue
		}
		w.URL = "https://billing.example.com/"
		err = w.Admit(guard)
		if diff := cmp.Diff([]string{"/auth/token_url"}, pointers(t, err)); diff != "" {
			t.Errorf("%s: complaints (-want +got):\n%s", url, diff)
		}
		if v, ok := err.(*ValidationError); !ok || !v.URLNotAllowed() {
			t.Errorf("%s: it is not called a URL that is not allowed: %v", url, err)
		}
	}
}

// TestS4_ClientKeys: pairs that fit are taken, and nothing of a key is ever told.
func TestS4_ClientKeys(t *testing.T) {
	cert, key := testIdentity(t)
	other, otherKey := testIdentity(t)
	ca := testCA(t)
	for claim, test := range map[string]struct {
		cert, key *string
		want      string
	}{
		"none":                        {nil, nil, ""},
		"a pair":                      {&cert, &key, ""},
		"a pair with its chain":       {new(cert + ca), &key, ""},
		"a pair out of order":         {new(ca + cert), &key, "/tls/client_key"},
		"a certificate alone":         {&cert, nil, "/tls/client_key"},
		"a key alone":                 {nil, &key, "/tls/client_key"},
		"the key of another":          {&cert, &otherKey, "/tls/client_key"},
		"the certificate of another":  {&other, &key, "/tls/client_key"},
		"no key":                      {&cert, new("s3cret"), "/tls/client_key"},
		"an empty key":                {&cert, new(""), "/tls/client_key"},
		"a key with the certificate":  {new(cert + key), &key, "/tls/client_certificate"},
		"a key for the certificate":   {&key, &key, "/tls/client_certificate"},
		"no certificate":              {new("s3cret"), &key, "/tls/client_certificate"},
		"an empty certificate":        {new(""), &key, "/tls/client_certificate"},
		"a key longer than it may be": {&cert, new(key + strings.Repeat("\n", 8<<10)), "/tls/client_key"},
		"far too many certificates":   {new(strings.Repeat(cert, 21)), &key, "/tls/client_certificate"},
	} {
		w := valid()
		w.TLS.ClientCertificate, w.TLS.ClientKey = test.cert, test.key
		err := w.Validate()
		var want []string
		if test.want != "" {
			want = []string{test.want}
		}
		if diff := cmp.Diff(want, pointers(t, err)); diff != "" {
			t.Errorf("%s: complaints (-want +got):\n%s", claim, diff)
		}
		if text := fmt.Sprint(err); strings.Contains(text, "s3cret") || strings.Contains(text, "PRIVATE") {
			t.Errorf("%s: the complaint repeats it: %v", claim, err)
		}
	}
}

// trusted is a webhook with a credential of every kind but one: auth has but one type.
func trusted(t *testing.T, auth string) Webhook {
	t.Helper()
	cert, key := testIdentity(t)
	w, err := Decode([]byte(`{"url":"https://billing.example.com/hook","topics":["orders"],"auth":`+auth+`}`), "a")
	if err != nil {
		t.Fatal(err)
	}
	w.Request.Headers = map[string]string{"X-Api-Key": "s3cret", "x-env": "prod"}
	w.TLS.ClientCertificate, w.TLS.ClientKey = &cert, &key
	return w
}

// TestS4_G8_CredentialsAreSealed: neither the registry's topic nor the log tells one,
// and they are what they were for whoever has the key.
func TestS4_G8_CredentialsAreSealed(t *testing.T) {
	for kind, text := range auths {
		log := newMemory()
		var logged bytes.Buffer
		r := follow(t, log.open(), ring(t, testKey(1)), slog.NewTextHandler(&logged, &slog.HandlerOptions{Level: slog.LevelDebug}))
		r.lead()
		w := trusted(t, text)
		key := *w.TLS.ClientKey
		created := create(t, r, w)
		paused, err := r.SetState(t.Context(), DefaultTenant, "a", Paused, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.stop()
		secrets := []string{"s3cret", strings.Split(key, "\n")[1]}
		for _, secret := range secrets {
			for _, record := range log.records {
				if strings.Contains(string(record.value), secret) {
					t.Errorf("%s: the record at %d holds a secret: %s", kind, record.offset, record.value)
				}
			}
			if strings.Contains(logged.String(), secret) {
				t.Errorf("%s: the log holds a secret", kind)
			}
		}
		// With the keys rotated, too.
		for which, ring := range map[string]*Keys{"same key": ring(t, testKey(1)), "rotated": ring(t, testKey(2), testKey(1))} {
			got := get(t, start(t, log.open(), ring), "a").Webhook
			if diff := cmp.Diff(paused.Webhook, got); diff != "" {
				t.Errorf("%s, %s: after a restart (-want +got):\n%s", kind, which, diff)
			}
			if diff := cmp.Diff(w.Auth, got.Auth); diff != "" || *got.TLS.ClientKey != key || got.Request.Headers["X-Api-Key"] != "s3cret" {
				t.Errorf("%s, %s: credentials are not what they were: %+v, %s", kind, which, got.Request.Headers, diff)
			}
		}
		if diff := cmp.Diff(w.Auth, created.Webhook.Auth); diff != "" {
			t.Errorf("%s: created with another auth (-want +got):\n%s", kind, diff)
		}
	}
}

// TestG8_CredentialsOfOthersDoNotOpen: they are bound to the webhook, and are not the
// signing secret.
func TestG8_CredentialsOfOthersDoNotOpen(t *testing.T) {
	keys := ring(t, testKey(1))
	encoded := func(w Webhook) stored {
		value, err := encode(Entry{Webhook: w, Secret: []byte("secret")}, keys)
		if err != nil {
			t.Fatal(err)
		}
		var s stored
		if err := json.Unmarshal(value, &s); err != nil {
			t.Fatal(err)
		}
		return s
	}
	own, other := hook("a"), hook("b")
	own.Auth, other.Auth = &Auth{Type: AuthBearer, Token: "own"}, &Auth{Type: AuthBearer, Token: "other"}
	for claim, change := range map[string]func(*stored){
		"those of another":   func(s *stored) { s.Credentials = encoded(other).Credentials },
		"the signing secret": func(s *stored) { s.Credentials = s.Secret },
		"damaged ones":       func(s *stored) { s.Credentials[5] ^= 1 },
		"less than there are": func(s *stored) {
			s.Webhook.Request.Headers = map[string]string{"x-token": Mask}
		},
	} {
		s := encoded(own)
		change(&s)
		value, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		if e, err := decodeEntry(key(DefaultTenant, "a"), value, 1, keys); err == nil {
			t.Errorf("%s open: %+v", claim, e.Webhook.Auth)
		}
	}
}

// The file was written by a build that knew of version 3, and sealed nothing but the
// signing secret.
func TestCredentialsOfVersion3AreReadAndSealedFromThenOn(t *testing.T) {
	value, err := os.ReadFile("testdata/entry_v3.json")
	if err != nil {
		t.Fatal(err)
	}
	log := newMemory()
	log.put(key(DefaultTenant, "a"), value)
	r := start(t, log.open(), nil)
	if got := get(t, r, "a").Webhook.Request.Headers["Authorization"]; got != "Bearer s3cret" {
		t.Errorf("authorization is %q", got)
	}
	if _, err := r.SetState(t.Context(), DefaultTenant, "a", Paused, nil); err != nil {
		t.Fatal(err)
	}
	if last := log.records[len(log.records)-1]; bytes.Contains(last.value, []byte("s3cret")) {
		t.Errorf("written anew it holds the secret: %s", last.value)
	}
	if got := get(t, r, "a").Webhook.Request.Headers["Authorization"]; got != "Bearer s3cret" {
		t.Errorf("written anew authorization is %q", got)
	}
}

// TestS6_AnotherHost: nobody learns a credential by having it sent elsewhere, and what
// was answered can be sent back.
func TestS6_AnotherHost(t *testing.T) {
	elsewhere := func(w *Webhook) { w.URL = "https://evil.example/" }
	lifecycle := func(w *Webhook) { w.Lifecycle = &Lifecycle{URL: "https://evil.example/"} }
	nothing := func(*Webhook) {}
	path := func(w *Webhook) { w.URL = "https://BILLING.example.com/other" }
	header, clientKey := "/request/headers/X-Api-Key", "/tls/client_key"
	type row struct {
		claim, auth string
		edit        func(*Webhook)
		want        []string // complaints
	}
	var rows []row
	for kind, pointer := range map[string]string{AuthBearer: "/auth/token", AuthBasic: "/auth/password", AuthHeader: "/auth/value", AuthOAuth2: "/auth/client_secret"} {
		rows = append(rows,
			row{kind + " sent back", auths[kind], nothing, nil},
			row{kind + " to another path", auths[kind], path, nil},
			row{kind + " to another host", auths[kind], elsewhere, []string{header, pointer, clientKey}},
			row{kind + " by lifecycle calls", auths[kind], lifecycle, []string{header, pointer, clientKey}},
			row{kind + " without TLS", auths[kind], func(w *Webhook) { w.URL = "http://billing.example.com/" }, []string{header, pointer, clientKey}},
		)
	}
	rows = append(rows,
		row{"a client secret to another endpoint", auths[AuthOAuth2], func(w *Webhook) { w.Auth.TokenURL = "https://evil.example/" }, []string{"/auth/client_secret", clientKey}},
		row{"a client secret to where records go", auths[AuthOAuth2], func(w *Webhook) { w.Auth.TokenURL = w.URL }, []string{"/auth/client_secret", clientKey}},
		row{"another path of the endpoint", auths[AuthOAuth2], func(w *Webhook) { w.Auth.TokenURL = "https://login.example.com/v2/token" }, nil},
		row{"a value under another name", auths[AuthHeader], func(w *Webhook) { w.Auth.Name = "X-Other" }, []string{"/auth/value"}},
		row{"a value under the same name", auths[AuthHeader], func(w *Webhook) { w.Auth.Name = "x-api-id" }, nil},
		row{"a mask of another type", auths[AuthBearer], func(w *Webhook) { w.Auth = &Auth{Type: AuthBasic, Username: "a", Password: Mask} }, []string{"/auth/password"}},
		row{"no auth any more", auths[AuthBearer], func(w *Webhook) { w.Auth = nil }, nil},
		row{"a certificate that the key is not of", auths[AuthBearer], func(w *Webhook) { cert, _ := testIdentity(t); w.TLS.ClientCertificate = &cert }, []string{clientKey}},
		row{"another pair", auths[AuthBearer], func(w *Webhook) {
			cert, key := testIdentity(t)
			w.TLS.ClientCertificate, w.TLS.ClientKey = &cert, &key
		}, nil},
		row{"to another host, all given anew", auths[AuthBearer], func(w *Webhook) {
			cert, key := testIdentity(t)
			w.URL, w.Auth.Token, w.Request.Headers["X-Api-Key"] = "https://new.example/", "new", "new"
			w.TLS.ClientCertificate, w.TLS.ClientKey = &cert, &key
		}, nil},
	)
	for _, test := range rows {
		r := start(t, newMemory().open(), nil)
		before := create(t, r, trusted(t, test.auth))
		answered, err := json.Marshal(before.Webhook.Masked())
		if err != nil {
			t.Fatal(err)
		}
		w, err := Decode(answered, "a")
		if err != nil {
			t.Fatalf("%s: what was answered is not valid: %v", test.claim, err)
		}
		test.edit(&w)
		after, changed, err := r.Replace(t.Context(), w, nil)
		if diff := cmp.Diff(test.want, pointers(t, err)); diff != "" {
			t.Errorf("%s: complaints (-want +got):\n%s", test.claim, diff)
		}
		stands := get(t, r, "a")
		if text := fmt.Sprintf("%+v", stands.Webhook); strings.Contains(text, Mask) {
			t.Errorf("%s: a mask is kept for a value: %s", test.claim, text)
		}
		if test.want != nil {
			if diff := cmp.Diff(before, stands); diff != "" {
				t.Errorf("%s: refused, and changed (-was +is):\n%s", test.claim, diff)
			}
		}
		if strings.HasSuffix(test.claim, "sent back") && (changed || after.Revision != before.Revision) {
			t.Errorf("%s: it was changed", test.claim)
		}
	}
	r := start(t, newMemory().open(), nil)
	w := trusted(t, auths[AuthBearer]).Masked()
	if _, err := r.Create(t.Context(), w, nil); len(pointers(t, err)) != 3 {
		t.Errorf("created with masks: %v", err)
	}
}

func TestAuthIsContent(t *testing.T) {
	w := trusted(t, auths[AuthBearer])
	for claim, edit := range map[string]func(*Webhook){
		"the token":     func(w *Webhook) { w.Auth.Token = "other" },
		"no auth":       func(w *Webhook) { w.Auth = nil },
		"a certificate": func(w *Webhook) { w.TLS.ClientCertificate = nil },
		"a key":         func(w *Webhook) { *w.TLS.ClientKey = "other" },
	} {
		other := w.Clone()
		if edit(&other); sameContent(w, other) {
			t.Errorf("webhooks are alike that differ in %s", claim)
		}
	}
	if !sameContent(w, w.Clone()) {
		t.Error("a clone differs")
	}
}

// What maxPinned leaves room for.
func TestTheLargestCredentialsAreSealedWithinTheirBounds(t *testing.T) {
	w := valid()
	w.Request.Headers = map[string]string{"x-token": strings.Repeat(`"`, maxHeaderBytes-len("x-token"))}
	w.Auth = &Auth{Type: AuthBearer, Token: strings.Repeat(`"`, maxToken)}
	_, key := testIdentity(t)
	w.TLS.ClientKey = new(key + strings.Repeat("\n", maxClientKey/2-len(key)))
	_, sealed, err := sealCredentials(w, ring(t, testKey(1)))
	if most := 34 << 10; err != nil || len(sealed) > most {
		t.Errorf("sealed into %d bytes, %v; want at most %d", len(sealed), err, most)
	}
}
