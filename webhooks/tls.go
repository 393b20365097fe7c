package webhooks

import (
	"crypto/tls"
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

	// ClientCertificate and ClientKey, in PEM, are what the gateway shows to a receiver
	// that asks who it is: its certificate, with those that lead to an authority behind
	// it, and the private key of the first. Nil, both: it has none.
	ClientCertificate *string `json:"client_certificate"`
	ClientKey         *string `json:"client_key"`
}

const (
	maxCA        = 64 << 10 // bytes of PEM as JSON writes it, which is how it is stored
	maxCACerts   = 20
	maxChain     = 16 << 10 // likewise, of the client's certificates
	maxClientKey = 8 << 10
)

var (
	errCA        = errors.New("must be certificates in PEM, and nothing else")
	errKeyAlone  = errors.New("must stand together with client_certificate, or neither of them")
	errClientKey = errors.New("must be the private key of client_certificate's first, in PEM and not encrypted")
)

// certificates reads PEM in which there are 1 to maxCACerts certificates and nothing
// else.
func certificates(text string) ([]*x509.Certificate, error) {
	var all []*x509.Certificate
	for rest := []byte(text); strings.TrimSpace(string(rest)) != ""; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil || block.Type != "CERTIFICATE" || len(all) == maxCACerts {
			return nil, errCA
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, errCA
		}
		all = append(all, cert)
	}
	if all == nil {
		return nil, errCA
	}
	return all, nil
}

// Authorities are those that are trusted for the webhook; nil for the system's. An
// error means that Validate was not asked, and does not repeat what is there.
func (t TLS) Authorities() (*x509.CertPool, error) {
	if t.CA == nil {
		return nil, nil
	}
	pool := x509.NewCertPool()
	return pool, t.addAuthorities(pool)
}

// AllAuthorities are the system's and those of CA; nil for the system's alone. Errors
// are as with Authorities.
func (t TLS) AllAuthorities() (*x509.CertPool, error) {
	if t.CA == nil {
		return nil, nil
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	return pool, t.addAuthorities(pool)
}

func (t TLS) addAuthorities(pool *x509.CertPool) error {
	all, err := certificates(*t.CA)
	for _, cert := range all {
		pool.AddCert(cert)
	}
	return err
}

// Identity is what the gateway shows to a receiver that asks for a certificate; nil
// for none. Errors are as with Authorities.
func (t TLS) Identity() ([]tls.Certificate, error) {
	switch {
	case t.ClientCertificate == nil && t.ClientKey == nil:
		return nil, nil
	case t.ClientCertificate == nil || t.ClientKey == nil:
		return nil, errKeyAlone
	}
	pair, err := tls.X509KeyPair([]byte(*t.ClientCertificate), []byte(*t.ClientKey))
	if err != nil {
		return nil, errClientKey // the cause may repeat what is there
	}
	return []tls.Certificate{pair}, nil
}

func checkTLS(c *complaints, pointer string, t TLS) {
	if tooLong(t.CA, maxCA) {
		c.add(pointer+"/ca", "must be at most %d bytes as JSON writes them", maxCA)
	} else if _, err := t.Authorities(); err != nil {
		c.add(pointer+"/ca", "must be 1 to %d certificates in PEM, and nothing else", maxCACerts)
	}
	switch {
	case t.ClientCertificate == nil:
	case tooLong(t.ClientCertificate, maxChain):
		c.add(pointer+"/client_certificate", "must be at most %d bytes as JSON writes them", maxChain)
		return
	default:
		if _, err := certificates(*t.ClientCertificate); err != nil {
			c.add(pointer+"/client_certificate", "must be 1 to %d certificates in PEM, and nothing else", maxCACerts)
			return
		}
	}
	switch {
	case tooLong(t.ClientKey, maxClientKey):
		c.add(pointer+"/client_key", "must be at most %d bytes as JSON writes them", maxClientKey)
	case t.ClientKey != nil && t.ClientCertificate != nil && *t.ClientKey == Mask:
		// It is looked at again when it stands where the mask is.
	default:
		if _, err := t.Identity(); err != nil {
			c.add(pointer+"/client_key", "%s", err.Error())
		}
	}
}

func tooLong(text *string, most int) bool {
	if text == nil {
		return false
	}
	written, err := json.Marshal(*text)
	return err != nil || len(written) > most
}
