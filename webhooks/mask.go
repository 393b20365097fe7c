package webhooks

import (
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strings"
)

// Mask stands in answers for the value of a header that is a credential.
const Mask = "********"

// sensitiveHeader matches names of headers whose values nobody should read back.
var sensitiveHeader = regexp.MustCompile(`(?i)authorization|cookie|token|secret|password|credential|signature|api-?key`)

// Masked returns a webhook in which credentials among its request headers are
// replaced by Mask: what may be shown. It shares the rest with w.
func (w Webhook) Masked() Webhook {
	headers := maps.Clone(w.Request.Headers)
	for name := range headers {
		if sensitiveHeader.MatchString(name) {
			headers[name] = Mask
		}
	}
	w.Request.Headers = headers
	return w
}

// unmask puts the credentials that stand in old where w has Mask in their place, so
// that what was answered can be sent back. Where w would send them to another host
// than old does they have to be given anew: who may change a webhook is not to
// learn what it was trusted with. It complains about what Mask stands for nothing in.
func (w *Webhook) unmask(old Webhook) error {
	var c complaints
	for _, name := range slices.Sorted(maps.Keys(w.Request.Headers)) {
		if w.Request.Headers[name] != Mask || !sensitiveHeader.MatchString(name) {
			continue
		}
		at := child("/request/headers", name)
		value, ok := headerOf(old, name)
		switch {
		case !ok:
			c.add(at, "has a mask for a value, and there is none that it stands for")
		case !sameOrigins(*w, old):
			c.add(at, "has a mask for a value, which has to be given anew: the webhook goes to another host")
		default:
			w.Request.Headers[name] = value
		}
	}
	return c.err()
}

// CheckMasks is a *ValidationError for a webhook that is new and has masks: there is
// nothing that they could stand for.
func (w *Webhook) CheckMasks() error {
	c := w.Clone()
	return c.unmask(Webhook{})
}

// headerOf finds a request header, in whatever case its name is.
func headerOf(w Webhook, name string) (value string, ok bool) {
	for other, value := range w.Request.Headers {
		if strings.EqualFold(other, name) {
			return value, true
		}
	}
	return "", false
}

// sameOrigins tells whether a webhook sends nothing to where old did not.
func sameOrigins(w, old Webhook) bool {
	known := origins(old)
	return !slices.ContainsFunc(origins(w), func(o string) bool { return !slices.Contains(known, o) })
}

// origins are scheme, host and port of the URLs of a valid webhook.
func origins(w Webhook) []string {
	urls := []string{w.URL}
	if w.Lifecycle != nil {
		urls = append(urls, w.Lifecycle.URL)
	}
	for i, text := range urls {
		if u, err := url.Parse(text); err == nil {
			urls[i] = strings.ToLower(u.Scheme + "://" + u.Host)
		}
	}
	return urls
}
