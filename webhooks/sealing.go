package webhooks

import "crypto/ed25519"

// sealEntry makes what is stored of an entry.
func (k *Keys) sealEntry(e Entry) (stored, error) {
	s := stored{Version: storedVersion, Webhook: e.Webhook, Pinned: e.Pinned}
	var err error
	if s.Secret, s.Seed, err = k.sealKey(e.Secret, e.Private, owner(&e.Webhook)); err != nil {
		return stored{}, err
	}
	for _, f := range e.Former {
		sealed := storedFormer{Until: f.Until}
		if sealed.Secret, sealed.Seed, err = k.sealKey(f.Secret, f.Private, owner(&e.Webhook)); err != nil {
			return stored{}, err
		}
		s.Former = append(s.Former, sealed)
	}
	return s, nil
}

// openEntry puts the keys that s holds into e.
func (k *Keys) openEntry(e *Entry, s stored) (err error) {
	if e.Secret, e.Private, err = k.openKey(s.Secret, s.Seed, owner(&s.Webhook)); err != nil {
		return err
	}
	for _, sealed := range s.Former {
		f := FormerKey{Until: sealed.Until}
		if f.Secret, f.Private, err = k.openKey(sealed.Secret, sealed.Seed, owner(&s.Webhook)); err != nil {
			return err
		}
		e.Former = append(e.Former, f)
	}
	return nil
}

// seedContext is added to the owner for the seed of a key pair, so that it is not
// taken for a secret, which a receiver knows.
const seedContext = "#ed25519"

func (k *Keys) sealKey(secret []byte, private ed25519.PrivateKey, owner string) (sealed, sealedSeed []byte, err error) {
	if sealed, err = k.seal(secret, owner); err != nil || private == nil {
		return sealed, nil, err
	}
	sealedSeed, err = k.seal(private.Seed(), owner+seedContext)
	return sealed, sealedSeed, err
}

func (k *Keys) openKey(sealed, sealedSeed []byte, owner string) (secret []byte, private ed25519.PrivateKey, err error) {
	if secret, err = k.open(sealed, owner); err != nil || sealedSeed == nil {
		return secret, nil, err
	}
	seed, err := k.open(sealedSeed, owner+seedContext)
	if err != nil || len(seed) != ed25519.SeedSize {
		return nil, nil, errUnsealable
	}
	return secret, ed25519.NewKeyFromSeed(seed), nil
}
