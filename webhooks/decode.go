package webhooks

// Decode reads a webhook from a request body: strict JSON over Default(). id is
// the id in the request's path, or "": then the body's id, or a new one. The
// webhook that comes back is complete and valid. Errors are ErrMalformed or a
// *ValidationError.
func Decode(data []byte, id string) (Webhook, error) { panic("seam") }

// NewID returns a fresh webhook id: "wh_" and a lower-case ULID.
func NewID() string { panic("seam") }

// Validate checks every rule and limit of the resource; it returns nil or a
// *ValidationError with all complaints.
func (w *Webhook) Validate() error { panic("seam") }
