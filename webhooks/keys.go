package webhooks

// Keys is the installation's key ring: the first key seals, all of them open.
// It is safe for concurrent use.
type Keys struct{}

// NewKeys makes a ring from keys of 32 bytes in base64.
func NewKeys(b64 ...string) (*Keys, error) { panic("seam") }

// Derive returns one 32-byte subkey per key of the ring, in the ring's order.
func (k *Keys) Derive(label string) [][]byte { panic("seam") }

// FormatSecret is how a webhook's signing secret is told to people: "whsec_" and base64.
func FormatSecret(secret []byte) string { panic("seam") }
