package webhooks

import (
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strings"
)

// Mask stands in answers for a credential.
const Mask = "********"

// sensitiveHeader matches names of headers whose values nobody should read back.
var sensitiveHeader = regexp.MustCompile(`(?i)authorization|cookie|token|secret|password|credential|signature|api-?key`)

// credential is a value of a webhook that nobody reads back. What is one is masked
// in answers and sealed in the registry.
type credential struct {
	name    string // the same for what stands for the same credential in another webhook
	pointer string
	value   string
	set     func(string)
	fetches bool // it is for fetching tokens, too
}

// credentials are all that a webhook has, the one list of them. Setting one changes
// what w shares with others.
func (w *Webhook) credentials() []credential {
	var all []credential
	for _, name := range slices.Sorted(maps.Keys(w.Request.Headers)) {
		if sensitiveHeader.MatchString(name) {
			set := func(value string) { w.Request.Headers[name] = value }
			all = append(all, credential{"header " + strings.ToLower(name), child("/request/headers", name), w.Request.Headers[name], set, false})
		}
	}
	field := func(name, pointer string, place *string, fetches bool) {
		if *place != "" {
			all = append(all, credential{name, pointer, *place, func(value string) { *place = value }, fetches})
		}
	}
	if a := w.Auth; a != nil {
		field("auth token", "/auth/token", &a.Token, false)
		field("auth password", "/auth/password", &a.Password, false)
		field("auth value of "+strings.ToLower(a.Name), "/auth/value", &a.Value, false)
		field("auth client secret", "/auth/client_secret", &a.ClientSecret, true)
	}
	if w.TLS.ClientKey != nil {
		field("client key", "/tls/client_key", w.TLS.ClientKey, true)
	}
	return all
}

// Masked returns a webhook in which credentials are replaced by Mask: what may be
// shown. It shares the rest with w.
func (w Webhook) Masked() Webhook {
	w.Request.Headers = maps.Clone(w.Request.Headers)
	w.Auth, w.TLS.ClientKey = w.Auth.clone(), clonePointer(w.TLS.ClientKey)
	for _, c := range w.credentials() {
		c.set(Mask)
	}
	return w
}

// unmask puts the credentials that stand in old where w has Mask in their place, so
// that what was answered can be sent back. Where w would send them to another host
// than old does they have to be given anew: who may change a webhook is not to
// learn what it was trusted with. It complains about what Mask stands for nothing in,
// and about a key that then does not fit its certificate.
func (w *Webhook) unmask(old Webhook) error {
	var c complaints
	stored := map[string]string{}
	for _, s := range old.credentials() {
		stored[s.name] = s.value
	}
	for _, masked := range w.credentials() {
		if masked.value != Mask {
			continue
		}
		value, ok := stored[masked.name]
		switch {
		case !ok:
			c.add(masked.pointer, "has a mask for a value, and there is none that it stands for")
		case !among(receivers(*w), receivers(old)):
			c.add(masked.pointer, "has a mask for a value, which has to be given anew: the webhook goes to another host")
		case masked.fetches && !among(tokenEndpoints(*w), tokenEndpoints(old)):
			c.add(masked.pointer, "has a mask for a value, which has to be given anew: tokens are fetched from another host")
		default:
			masked.set(value)
		}
	}
	checkTLS(&c, "/tls", w.TLS)
	return c.err()
}

// CheckMasks is a *ValidationError for a webhook that is new and has masks: there is
// nothing that they could stand for.
func (w *Webhook) CheckMasks() error {
	c := w.Clone()
	return c.unmask(Webhook{})
}

// receivers are scheme, host and port of where a valid webhook's requests go, and
// tokenEndpoints of where it fetches tokens.
func receivers(w Webhook) []string {
	urls := []string{w.URL}
	if w.Lifecycle != nil {
		urls = append(urls, w.Lifecycle.URL)
	}
	return origins(urls)
}

func tokenEndpoints(w Webhook) []string {
	if !w.Auth.FetchesTokens() {
		return nil
	}
	return origins([]string{w.Auth.TokenURL})
}

func origins(urls []string) []string {
	for i, text := range urls {
		if u, err := url.Parse(text); err == nil {
			urls[i] = strings.ToLower(u.Scheme + "://" + u.Host)
		}
	}
	return urls
}

// among tells whether all of some origins are known.
func among(some, known []string) bool {
	return !slices.ContainsFunc(some, func(o string) bool { return !slices.Contains(known, o) })
}
