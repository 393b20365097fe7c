package main

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/kpush/kpush/internal/devbroker"
	"github.com/kpush/kpush/receiver"
)

// TestG7: a secret is told by the answer that makes it and by nothing else: no other
// answer, no log at debug, no metric, no error. The gateway signs with it all the same, and
// its public key is where anybody finds it.
func TestG7_SecretsAreToldOnce(t *testing.T) {
	broker, err := devbroker.Start(devbroker.Options{Listen: "127.0.0.1:0", Ephemeral: true})
	if err != nil {
		t.Fatal(err)
	}
	defer broker.Close()
	createTopic(t, broker.Addr(), "orders")
	type request struct {
		header http.Header
		body   []byte
	}
	arrived := make(chan request, 100)
	hook := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		arrived <- request{r.Header.Clone(), body}
	}))
	defer hook.Close()
	r := start(t, append(serveSettings(broker.Addr()), "KPUSH_LOG_LEVEL=debug"), "serve")
	api, management := r.awaitStarted(t)
	awaitStatus(t, api+"/readyz", http.StatusOK)
	ask := func(method, path, body string, want int) string {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, api+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer admin")
		req.Header.Set("Content-Type", "application/json")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		answer, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != want {
			t.Fatalf("%s %s = %d %s, %v, want %d", method, path, resp.StatusCode, answer, err, want)
		}
		return string(answer)
	}
	secretIn := func(answer string) string {
		t.Helper()
		var a struct {
			Secret string `json:"secret"`
		}
		if err := json.Unmarshal([]byte(answer), &a); err != nil || !strings.HasPrefix(a.Secret, "whsec_") {
			t.Fatalf("%s holds no secret: %v", answer, err)
		}
		return a.Secret
	}
	verified := func(texts ...string) {
		t.Helper()
		secrets, err := receiver.ParseSecrets(texts...)
		if err != nil {
			t.Fatal(err)
		}
		produceOne(t, broker.Addr(), "orders")
		select {
		case q := <-arrived:
			if err := (receiver.Verifier{Secrets: secrets}).Verify(q.header, q.body); err != nil {
				t.Errorf("a delivery signed %q: %v", q.header.Get("Webhook-Signature"), err)
			}
		case <-time.After(patience):
			t.Fatal("nothing was delivered")
		}
	}

	hooked := fmt.Sprintf(`{"url":%q,"topics":["orders"],"signing":{"schemes":["v1","v1a"]}}`, hook.URL)
	secrets := []string{secretIn(ask("PUT", "/v1/webhooks/a", hooked, 201))}
	verified(secrets[0])
	const rotate = "/v1/webhooks/a/secret/rotate"
	secrets = append(secrets, secretIn(ask("POST", rotate, "", 200)))
	own := "whsec_" + base64.StdEncoding.EncodeToString([]byte("a secret that somebody brings along"))
	secrets = append(secrets, secretIn(ask("POST", rotate, `{"secret":"`+own+`","overlap_ms":3600000}`, 200)))
	if secrets[2] != own {
		t.Errorf("the secret is %s, want the one that was brought along", secrets[2])
	}
	for _, s := range secrets {
		verified(s) // all three of them sign
	}
	var shown struct {
		Signing struct {
			PublicKeys []string `json:"public_keys"`
		}
	}
	if err := json.Unmarshal([]byte(ask("GET", "/v1/webhooks/a", "", 200)), &shown); err != nil || len(shown.Signing.PublicKeys) != 3 {
		t.Fatalf("the webhook shows %+v, %v, want three public keys", shown, err)
	}
	verified(shown.Signing.PublicKeys[0])
	var set struct {
		Keys []struct{ X string }
	}
	if err := json.Unmarshal([]byte(ask("GET", "/.well-known/jwks.json", "", 200)), &set); err != nil || len(set.Keys) != 3 {
		t.Errorf("the key set is %+v, %v, want three keys", set, err)
	}

	later := []string{
		ask("GET", "/v1/webhooks/a", "", 200), ask("GET", "/v1/webhooks", "", 200), ask("PUT", "/v1/webhooks/a", hooked, 200),
		ask("POST", "/v1/webhooks/a/pause", "", 200), ask("POST", "/v1/webhooks/a/resume", "", 200),
		ask("GET", "/v1/webhooks/a/partitions", "", 200), ask("GET", "/.well-known/jwks.json", "", 200),
		ask("POST", rotate, `{"secret":"`+own+`","overlap_ms":-1}`, 422), ask("PUT", "/v1/webhooks/b", `{"secret":"`+own+`"}`, 422),
		ask("POST", "/v1/webhooks/none/secret/rotate", `{"secret":"`+own+`"}`, 404),
		call(t, management+"/metrics"),
	}
	r.end(t, patience)
	later = append(later, r.stdout.String(), r.stderr.String())
	for _, text := range secrets {
		coded := strings.TrimPrefix(text, "whsec_")
		raw, err := base64.StdEncoding.DecodeString(coded)
		if err != nil {
			t.Fatal(err)
		}
		for _, form := range []string{strings.TrimRight(coded, "="), string(raw), hex.EncodeToString(raw), fmt.Sprint(raw)} {
			for _, l := range later {
				if strings.Contains(l, form) {
					t.Errorf("a secret is told in:\n%s", l)
				}
			}
		}
	}
}
