package delivery

import (
	"bufio"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/kpush/kpush/webhooks"
	"github.com/kpush/kpush/webhooks/egress"
)

// authority signs certificates of receivers in tests.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{key: newKey(t)}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "an authority"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	a.cert = sign(t, template, template, a.key, a.key)
	return a
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func sign(t *testing.T, template, parent *x509.Certificate, key, by *ecdsa.PrivateKey) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, by)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// issue makes the certificate of a receiver on loopback; change edits it.
func (a *authority) issue(t *testing.T, change func(*x509.Certificate)) tls.Certificate {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	change(template)
	key := newKey(t)
	return tls.Certificate{Certificate: [][]byte{sign(t, template, a.cert, key, a.key).Raw}, PrivateKey: key}
}

// tlsReceiver is an https receiver that does what then does after each request.
func tlsReceiver(t *testing.T, config *tls.Config, then func(conn net.Conn, r *http.Request)) (url string) {
	t.Helper()
	return secured(listen(t, func(plain net.Conn, _ int) {
		conn := tls.Server(plain, config)
		for in := bufio.NewReader(conn); ; {
			r, err := http.ReadRequest(in)
			if err != nil {
				return
			}
			io.Copy(io.Discard, r.Body)
			then(conn, r)
		}
	}))
}

func ackTLS(conn net.Conn, _ *http.Request) { io.WriteString(conn, okHead+"Content-Length: 0\r\n\r\n") }

// trustingClient is a client that trusts an authority.
func trustingClient(t *testing.T, url string, a *authority) *Client {
	t.Helper()
	d := newDialer(testGuard(egress.Options{}))
	d.tls.RootCAs = x509.NewCertPool()
	d.tls.RootCAs.AddCert(a.cert)
	return dialingClient(t, d, url, timeout(5*time.Second))
}

func TestS1_Certificates(t *testing.T) {
	ours, revoked := newAuthority(t), newAuthority(t)
	fine := func(*x509.Certificate) {}
	for _, test := range []struct {
		claim   string
		by      *authority
		change  func(*x509.Certificate)
		verdict Verdict
		status  int
		code    string
	}{
		{"one that is good", ours, fine, Acked, 200, ""},
		{"expired", ours, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }, Failed, 0, CodeTLS},
		{"not valid yet", ours, func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Minute) }, Failed, 0, CodeTLS},
		{"of another host", ours, func(c *x509.Certificate) { c.IPAddresses, c.DNSNames = nil, []string{"example.com"} }, Failed, 0, CodeTLS},
		{"of nobody but in its common name", ours, func(c *x509.Certificate) { c.IPAddresses, c.Subject.CommonName = nil, "127.0.0.1" }, Failed, 0, CodeTLS},
		{"for clients alone", ours, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} }, Failed, 0, CodeTLS},
		{"of an authority that is not trusted any more", revoked, fine, Failed, 0, CodeTLS},
	} {
		t.Run(test.claim, func(t *testing.T) {
			url := tlsReceiver(t, &tls.Config{Certificates: []tls.Certificate{test.by.issue(t, test.change)}}, ackTLS)
			expect(t, deliver(t, trustingClient(t, url, ours)), test.verdict, test.status, test.code)
		})
	}
	t.Run("one that nobody but itself vouches for", func(t *testing.T) {
		self := newAuthority(t)
		self.cert.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)}
		cert := sign(t, self.cert, self.cert, self.key, self.key)
		url := tlsReceiver(t, &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{cert.Raw}, PrivateKey: self.key}}}, ackTLS)
		expect(t, deliver(t, trustingClient(t, url, ours)), Failed, 0, CodeTLS)
		expect(t, deliver(t, testClient(t, url)), Failed, 0, CodeTLS)
	})
}

func TestS2_VersionsAndCiphers(t *testing.T) {
	ours := newAuthority(t)
	cert := ours.issue(t, func(*x509.Certificate) {})
	for _, test := range []struct {
		claim  string
		config *tls.Config
		good   bool
	}{
		{"TLS 1.0", &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS10}, false},
		{"TLS 1.1", &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}, false},
		{"TLS 1.2", &tls.Config{MaxVersion: tls.VersionTLS12}, true},
		{"TLS 1.3", &tls.Config{MinVersion: tls.VersionTLS13}, true},
		{"ciphers nobody should use", &tls.Config{MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{
			tls.TLS_ECDHE_ECDSA_WITH_RC4_128_SHA, tls.TLS_RSA_WITH_3DES_EDE_CBC_SHA, tls.TLS_RSA_WITH_RC4_128_SHA,
		}}, false},
	} {
		t.Run(test.claim, func(t *testing.T) {
			test.config.Certificates = []tls.Certificate{cert}
			res := deliver(t, trustingClient(t, tlsReceiver(t, test.config, ackTLS), ours))
			if test.good {
				expect(t, res, Acked, 200, "")
			} else {
				expect(t, res, Failed, 0, CodeTLS)
			}
		})
	}
}

// TestS3_APrivateAuthority is trusted for the webhook that names it, for its
// deliveries and its lifecycle calls, and for no other.
func TestS3_APrivateAuthority(t *testing.T) {
	ours, others := newAuthority(t), newAuthority(t)
	url := tlsReceiver(t, &tls.Config{Certificates: []tls.Certificate{ours.issue(t, func(*x509.Certificate) {})}}, ackTLS)
	trusts := func(a ...*authority) func(*webhooks.Webhook) {
		return func(w *webhooks.Webhook) {
			var text []byte
			for _, a := range a {
				text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})...)
			}
			w.TLS.CA = new(string(text))
		}
	}
	expect(t, deliver(t, testClient(t, url, trusts(ours))), Acked, 200, "")
	expect(t, deliver(t, testClient(t, url, trusts(others, ours))), Acked, 200, "")
	expect(t, deliver(t, testClient(t, url, trusts(others))), Failed, 0, CodeTLS)
	expect(t, deliver(t, testClient(t, url)), Failed, 0, CodeTLS)
	expect(t, testNotifier(t, url, trusts(ours)).Notify(t.Context(), "lc_1", testNotice()), Acked, 200, "")
	expect(t, testNotifier(t, url).Notify(t.Context(), "lc_1", testNotice()), Failed, 0, CodeTLS)

	if _, err := NewClient(testConfig(testWebhook(url, func(w *webhooks.Webhook) { w.TLS.CA = new("s3cret") }))); err == nil || strings.Contains(err.Error(), "s3cret") {
		t.Errorf("what is no certificate: %v, want an error that does not repeat it", err)
	}
}

// TestT13_HTTP2IsNotSpoken: a receiver that insists on it fails cleanly, and what it
// might do to a client of HTTP/2 is no more than an answer that is not HTTP/1.1.
func TestT13_HTTP2IsNotSpoken(t *testing.T) {
	ours := newAuthority(t)
	cert := ours.issue(t, func(*x509.Certificate) {})
	t.Run("offered is http/1.1 alone", func(t *testing.T) {
		offered := make(chan []string, 1)
		config := &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"h2", "http/1.1"}}
		config.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			offered <- hello.SupportedProtos
			return nil, nil
		}
		expect(t, deliver(t, trustingClient(t, tlsReceiver(t, config, ackTLS), ours)), Acked, 200, "")
		if got := <-offered; len(got) != 1 || got[0] != "http/1.1" {
			t.Errorf("offered %q", got)
		}
	})
	t.Run("h2 and nothing else", func(t *testing.T) {
		// Go's server would let a client of http/1.1 pass in spite of "h2"; others send
		// the alert that it sends for any other protocol.
		url := tlsReceiver(t, &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"h2-alone"}}, ackTLS)
		expect(t, deliver(t, trustingClient(t, url, ours)), Failed, 0, CodeTLS)
	})

	frame := func(kind byte, payload int) string {
		return string([]byte{0, 0, byte(payload), kind, 0, 0, 0, 0, 0}) + strings.Repeat("\x00", payload)
	}
	for claim, frames := range map[string]string{"SETTINGS": frame(4, 0), "PING": frame(6, 8), "RST_STREAM": frame(3, 4), "GOAWAY": frame(7, 8)} {
		t.Run("a flood of "+claim, func(t *testing.T) {
			many := strings.Repeat(frames, 1000)
			url := tlsReceiver(t, &tls.Config{Certificates: []tls.Certificate{cert}}, func(conn net.Conn, r *http.Request) {
				if r.URL.Path != "/hostile" {
					ackTLS(conn, r)
					return
				}
				for n := 0; n < 1000; n++ {
					if _, err := io.WriteString(conn, many); err != nil {
						return
					}
				}
			})
			hostile, neighbour := trustingClient(t, url+"/hostile", ours), trustingClient(t, url+"/", ours)
			expect(t, deliver(t, neighbour), Acked, 200, "")
			expect(t, deliver(t, hostile), Failed, 0, CodeMalformed)
			expect(t, deliver(t, neighbour), Acked, 200, "")
		})
	}
}

// TestNoTLSErrorIsTold: whatever went wrong in a handshake, users see one word.
func TestNoTLSErrorIsTold(t *testing.T) {
	url := tlsReceiver(t, &tls.Config{Certificates: []tls.Certificate{newAuthority(t).issue(t, func(*x509.Certificate) {})}}, ackTLS)
	res := deliver(t, testClient(t, url))
	if text := fmt.Sprint(res); bytes.Contains([]byte(text), []byte("x509")) || strings.Contains(text, "127.0.0.1") {
		t.Errorf("the result tells more than a code: %s", text)
	}
}
