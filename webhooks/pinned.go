package webhooks

// Pinned is what a topic was when a webhook's start was pinned in it: every one of
// its partitions then had a committed offset.
type Pinned struct {
	TopicID    string `json:"topic_id"` // 32 hex digits; empty if not known
	Partitions int32  `json:"partitions"`
}
