package webhooks

import "github.com/kpush/kpush/webhooks/egress"

// Admit refuses a valid webhook whose URLs are not ones that an installation allows
// requests to be sent to. It returns nil or a *ValidationError.
func (w *Webhook) Admit(g *egress.Guard) error {
	var c complaints
	ask := func(pointer, url string) {
		if complaint := g.Complaint(url); complaint != "" {
			c.refuse(pointer, "%s", complaint)
		}
	}
	ask("/url", w.URL)
	if w.Lifecycle != nil {
		ask("/lifecycle/url", w.Lifecycle.URL)
	}
	if w.Auth.FetchesTokens() {
		ask("/auth/token_url", w.Auth.TokenURL)
	}
	return c.err()
}
