package webhooks

import (
	"bytes"
	"encoding/json"
	"fmt"
)

// sealCredentials takes the credentials out of a webhook that is to be stored: what
// comes back has Mask in their place, and sealed has them, nil if there are none.
func sealCredentials(w Webhook, keys *Keys) (masked Webhook, sealed []byte, err error) {
	return keys.sealCredentials(w, credentialsOwner(&w))
}

func (k *Keys) sealCredentials(w Webhook, context string) (masked Webhook, sealed []byte, err error) {
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
	sealed, err = k.seal(text.Bytes(), context)
	return w.Masked(), sealed, err
}

// openCredentials puts back what sealCredentials has taken out. Builds before version
// 4 have sealed none and left the values where they are.
func openCredentials(w *Webhook, sealed []byte, keys *Keys) error {
	return keys.openCredentials(w, sealed, credentialsOwner(w))
}

func (k *Keys) openCredentials(w *Webhook, sealed []byte, context string) error {
	if sealed == nil {
		return nil
	}
	text, err := k.open(sealed, context)
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

// SealCall takes the credentials out of a webhook that goes from one replica to
// another, as Keys.SealCall seals a secret: what comes back has Mask in their place,
// and sealed has them, nil if there are none. OpenCall puts them back there.
func (w Webhook) SealCall(k *Keys) (masked Webhook, sealed []byte, err error) {
	return k.sealCredentials(w, callContext+credentialsOwner(&w))
}

// OpenCall puts back what SealCall has taken out. It changes what w shares with others.
func (w *Webhook) OpenCall(k *Keys, sealed []byte) error {
	return k.openCredentials(w, sealed, callContext+credentialsOwner(w))
}
