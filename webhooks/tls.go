package webhooks

import (
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"strings"
)

// TLS settings of the connections to a webhook's URLs.
type TLS struct {
	// CA are certificates in PEM: those of the authorities that are trusted for this
	// webhook in place of the system's. Nil: the system's.
	CA *string `json:"ca"`
}

const (
	maxCA      = 64 << 10 // bytes of PEM as JSON writes it, which is how it is stored
	maxCACerts = 20
)

var errCA = errors.New("must be certificates in PEM, and nothing else")

// Authorities are those that are trusted for the webhook; nil for the system's. An
// error means that Validate was not asked, and does not repeat what is there.
func (t TLS) Authorities() (*x509.CertPool, error) {
	if t.CA == nil {
		return nil, nil
	}
	pool := x509.NewCertPool()
	n := 0
	for rest := []byte(*t.CA); strings.TrimSpace(string(rest)) != ""; n++ {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil || block.Type != "CERTIFICATE" || n == maxCACerts {
			return nil, errCA
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, errCA
		}
		pool.AddCert(cert)
	}
	if n == 0 {
		return nil, errCA
	}
	return pool, nil
}

func checkTLS(c *complaints, pointer string, t TLS) {
	if text, err := json.Marshal(t.CA); t.CA != nil && (err != nil || len(text) > maxCA) {
		c.add(pointer+"/ca", "must be at most %d bytes as JSON writes them", maxCA)
		return
	}
	if _, err := t.Authorities(); err != nil {
		c.add(pointer+"/ca", "must be 1 to %d certificates in PEM, and nothing else", maxCACerts)
	}
}
