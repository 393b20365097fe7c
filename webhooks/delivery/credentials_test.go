package delivery

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kpush/kpush/webhooks"
)

// pem is the authority's certificate in PEM.
func (a *authority) pem() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw}))
}

func poolOf(a *authority) *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return pool
}

// identity makes the certificate of a client, and its key, in PEM.
func (a *authority) identity(t *testing.T, name string) (cert, key string) {
	t.Helper()
	pair := a.issue(t, func(c *x509.Certificate) {
		c.Subject.CommonName, c.ExtKeyUsage = name, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	})
	pkcs8, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	cert = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: pair.Certificate[0]}))
	return cert, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}))
}

// TestAuthHeadersAreSent with deliveries, lifecycle calls and samples, once each.
func TestAuthHeadersAreSent(t *testing.T) {
	endpoint := newTokenEndpoint(t)
	for _, test := range []struct {
		auth webhooks.Auth
		want string
	}{
		{webhooks.Auth{Type: webhooks.AuthBearer, Token: "abc"}, "Bearer abc"},
		{webhooks.Auth{Type: webhooks.AuthBasic, Username: "a", Password: "b"}, "Basic YTpi"},
		{webhooks.Auth{Type: webhooks.AuthHeader, Name: "Authorization", Value: "Custom xyz"}, "Custom xyz"},
		{webhooks.Auth{Type: webhooks.AuthOAuth2, TokenURL: endpoint.url, ClientID: testClientID, ClientSecret: testClientSecret}, "Bearer token-"},
	} {
		receiver, requests := recording(t)
		auth := func(w *webhooks.Webhook) { w.Auth = &test.auth }
		c := testClient(t, receiver, auth)
		expect(t, deliver(t, c), Acked, 200, "")
		expect(t, testNotifier(t, receiver, auth).Notify(t.Context(), "lc_1", testNotice()), Acked, 200, "")
		expect(t, c.Sample(t.Context(), "dl_test", time.Now()), Acked, 200, "")
		for range 3 {
			if got := (<-requests).header["Authorization"]; len(got) != 1 || !strings.HasPrefix(got[0], test.want) {
				t.Errorf("%s: authorization is %q, want %q", test.auth.Type, got, test.want)
			}
		}
	}
	t.Run("a header of another name, in place of ours", func(t *testing.T) {
		receiver, requests := recording(t)
		c := testClient(t, receiver, func(w *webhooks.Webhook) {
			w.Auth = &webhooks.Auth{Type: webhooks.AuthHeader, Name: "User-Agent", Value: "s3cret"}
		})
		expect(t, deliver(t, c), Acked, 200, "")
		if got := (<-requests).header["User-Agent"]; len(got) != 1 || got[0] != "s3cret" {
			t.Errorf("user-agent is %q", got)
		}
	})
}

// TestAuthIsNotInErrors: what goes wrong in making a client tells no secret.
func TestAuthIsNotInErrors(t *testing.T) {
	for claim, edit := range map[string]func(*webhooks.Webhook){
		"a token with a line break": func(w *webhooks.Webhook) { w.Auth = &webhooks.Auth{Type: webhooks.AuthBearer, Token: "s3cret\r\n"} },
		"a token url that is none":  byOAuth2("http://s3cret:\x00@x/"),
		"a client key that is none": func(w *webhooks.Webhook) {
			w.TLS.ClientCertificate, w.TLS.ClientKey = new("s3cret"), new("s3cret")
		},
	} {
		if _, err := NewClient(testConfig(testWebhook("http://localhost", edit))); err == nil || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: %v, want an error that does not repeat it", claim, err)
		}
	}
}

// TestASampleSaysThatItIsOne, and cannot be acked.
func TestASampleSaysThatItIsOne(t *testing.T) {
	receiver, requests := recording(t)
	c := testClient(t, receiver)
	expect(t, c.Sample(t.Context(), "dl_test", time.UnixMilli(1_790_000_000_123)), Acked, 200, "")
	r := <-requests
	const want = `{"type":"kafka.records.test","timestamp":"2026-09-21T14:13:20.123Z","delivery_id":"dl_test","webhook_id":"orders-to-billing",` +
		`"attempt":1,"group_id":"kpush.default.orders-to-billing","generation":-1,"topic":"__kpush_test","partition":0,` +
		`"first_offset":0,"last_offset":0,"record_count":1,"ack":{"token":"test","url":"https://gw.example.com/ack","timeout_ms":30000},` +
		`"records":[{"offset":0,"timestamp":1790000000123,"timestamp_type":"create","key":"test",` +
		`"value":{"test":true,"text":"This record was invented by kpush. It is in no topic."},"headers":[{"name":"kpush-test","value":"true"}]}]}`
	if got := string(r.body); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if got := r.header.Get(SampleHeader); got != "true" {
		t.Errorf("%s is %q", SampleHeader, got)
	}
	if r.header.Get("Webhook-Signature") == "" || r.header.Get(LoopHeader) == "" {
		t.Error("it is not signed, or has no loop marker")
	}
	expect(t, deliver(t, c), Acked, 200, "")
	if got, ok := (<-requests).header[http.CanonicalHeaderKey(SampleHeader)]; ok {
		t.Errorf("a delivery has it, too: %q", got)
	}
}

// TestS4_ClientCertificates: a receiver that asks for one gets it, at every kind of
// request, and a change of it fails none.
func TestS4_ClientCertificates(t *testing.T) {
	servers, clients := newAuthority(t), newAuthority(t)
	shown := make(chan string, 10)
	config := &tls.Config{
		Certificates: []tls.Certificate{servers.issue(t, func(*x509.Certificate) {})},
		ClientAuth:   tls.RequireAndVerifyClientCert, ClientCAs: poolOf(clients),
	}
	receiver := secured(listen(t, func(plain net.Conn, _ int) {
		conn := tls.Server(plain, config)
		for in := bufio.NewReader(conn); ; {
			r, err := http.ReadRequest(in)
			if err != nil {
				return
			}
			io.Copy(io.Discard, r.Body)
			shown <- conn.ConnectionState().PeerCertificates[0].Subject.CommonName
			text := `{"access_token":"token-1","token_type":"Bearer"}`
			fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(text), text)
		}
	}))
	with := func(name string) func(*webhooks.Webhook) {
		cert, key := clients.identity(t, name)
		return func(w *webhooks.Webhook) {
			w.TLS = webhooks.TLS{CA: new(servers.pem()), ClientCertificate: &cert, ClientKey: &key}
		}
	}
	first, second := testClient(t, receiver, with("first")), testClient(t, receiver, with("second"))
	for _, c := range []*Client{first, second, first, second} { // while one takes over from the other
		expect(t, deliver(t, c), Acked, 200, "")
	}
	expect(t, first.Sample(t.Context(), "dl_test", time.Now()), Acked, 200, "")
	expect(t, testNotifier(t, receiver, with("notifier")).Notify(t.Context(), "lc_1", testNotice()), Acked, 200, "")
	var got []string
	for range 6 {
		got = append(got, <-shown)
	}
	if diff := cmp.Diff([]string{"first", "second", "first", "second", "first", "notifier"}, got); diff != "" {
		t.Errorf("shown (-want +got):\n%s", diff)
	}
	expect(t, deliver(t, testClient(t, receiver, with("client"), byOAuth2(receiver))), Acked, 200, "")
	if token, delivery := <-shown, <-shown; token != "client" || delivery != "client" {
		t.Errorf("the token endpoint was shown %q, the receiver %q", token, delivery)
	}

	expect(t, deliver(t, testClient(t, receiver, func(w *webhooks.Webhook) { w.TLS.CA = new(servers.pem()) })), Failed, 0, CodeTLS)
	strangers := newAuthority(t)
	expect(t, deliver(t, testClient(t, receiver, func(w *webhooks.Webhook) {
		cert, key := strangers.identity(t, "stranger")
		w.TLS = webhooks.TLS{CA: new(servers.pem()), ClientCertificate: &cert, ClientKey: &key}
	})), Failed, 0, CodeTLS)
}
