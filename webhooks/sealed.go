package webhooks

import (
	"bytes"
	"encoding/json"
	"fmt"
)

// sealCredentials takes the credentials out of a webhook that is to be stored: what
// comes back has Mask in their place, and sealed has them, nil if there are none.
func sealCredentials(w Webhook, keys *Keys) (masked Webhook, sealed []byte, err error) {
	values := map[string]string{}
	for _, c := range w.credentials() {
		values[c.name] = c.value
	}
	if len(values) == 0 {
		return w, nil, nil
	}
	var text bytes.Buffer
	e := json.NewEncoder(&text)
	e.SetEscapeHTML(false) // it is read by nobody, and six times as long
	if err := e.Encode(values); err != nil {
		return w, nil, fmt.Errorf("encoding the credentials of webhook %s: %w", w.ID, err)
	}
	sealed, err = keys.seal(text.Bytes(), credentialsOwner(&w))
	return w.Masked(), sealed, err
}

// openCredentials puts back what sealCredentials has taken out. Builds before version
// 4 have sealed none and left the values where they are.
func openCredentials(w *Webhook, sealed []byte, keys *Keys) error {
	if sealed == nil {
		return nil
	}
	text, err := keys.open(sealed, credentialsOwner(w))
	if err != nil {
		return err
	}
	var values map[string]string
	if err := json.Unmarshal(text, &values); err != nil {
		return errUnsealable
	}
	for _, c := range w.credentials() {
		value, ok := values[c.name]
		if !ok {
			return errUnsealable
		}
		c.set(value)
	}
	return nil
}

// credentialsOwner is the associated data of a webhook's sealed credentials. No id
// has a slash, so it is nobody's owner.
func credentialsOwner(w *Webhook) string { return owner(w) + "/credentials" }
