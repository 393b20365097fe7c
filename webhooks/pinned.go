package webhooks

import "encoding/json"

// Pinned is what a topic was when a webhook's start was pinned in it: every one of
// its partitions then had a committed offset.
type Pinned struct {
	TopicID    string `json:"topic_id"` // 32 hex digits; empty if not known
	Partitions int32  `json:"partitions"`
}

// maxPinned bounds, in bytes as they are stored, what is remembered of a webhook's
// topics: some 8,000 with short names. With the rest of the webhook, of which
// Validate bounds every field, it has to fit into one record: a broker takes 1 MB by
// default, and so does the client.
const maxPinned = 640 << 10

// CheckPinned tells whether a webhook may have so many topics when it is registered;
// if not, the error is a *ValidationError.
func CheckPinned(pinned map[string]Pinned) error {
	var c complaints
	if text, err := json.Marshal(pinned); err != nil || len(text) > maxPinned {
		c.add("/topics", "must match fewer topics: of %d it cannot be kept where the webhook began", len(pinned))
	}
	return c.err()
}
