package webhooks

import (
	"crypto/ed25519"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"strings"
	"testing"
	"time"
)

// testCA is the certificate of an authority, in PEM.
func testCA(t *testing.T) string {
	t.Helper()
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(nil, template, template, public, private)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

func TestS3_CAs(t *testing.T) {
	ca := testCA(t)
	key := string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("s3cret")}))
	for claim, test := range map[string]struct {
		ca   string
		good bool
	}{
		"one":                     {ca, true},
		"several":                 {ca + "\n" + testCA(t) + "\n\n", true},
		"twenty":                  {strings.Repeat(ca, 20), true},
		"twenty-one":              {strings.Repeat(ca, 21), false},
		"none":                    {"", false},
		"blanks":                  {"\n \n", false},
		"no PEM":                  {"s3cret", false},
		"something behind":        {ca + "s3cret", false},
		"a private key":           {key, false},
		"a private key behind":    {ca + key, false},
		"a block that is none":    {"-----BEGIN CERTIFICATE-----\nczNjcmV0\n-----END CERTIFICATE-----\n", false},
		"more than is reasonable": {ca + strings.Repeat("\n", 64<<10), false},
		"more when it is stored":  {strings.Repeat("<", 16<<10) + "\n" + ca, false},
	} {
		w := valid()
		w.TLS.CA = &test.ca
		err := w.Validate()
		if (err == nil) != test.good {
			t.Errorf("%s: %v, want good = %v", claim, err, test.good)
		}
		if err != nil {
			if got := pointers(t, err); len(got) != 1 || got[0] != "/tls/ca" {
				t.Errorf("%s: complaints about %q, want /tls/ca", claim, got)
			}
			if strings.Contains(err.Error(), "s3cret") {
				t.Errorf("%s: the complaint repeats it: %v", claim, err)
			}
		}
	}
}
