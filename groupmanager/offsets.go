package groupmanager

import "time"

// SeekRequest tells where a webhook shall go on reading. Exactly one of To, Time
// and Partitions is set.
type SeekRequest struct {
	// To is webhooks.StartEarliest or webhooks.StartLatest, for every partition.
	To string

	// Time means, for every partition, the first record that is not older; the end
	// where there is none.
	Time *time.Time

	// Partitions are those to move; all others stay where they are.
	Partitions []SeekPartition

	// DryRun asks what would move, and moves nothing.
	DryRun bool
}

// SeekPartition is where one partition shall go on.
type SeekPartition struct {
	Topic     string
	Partition int32
	Offset    int64 // the next record to read; not negative
}

// SeekMove is one partition's part in a seek.
type SeekMove struct {
	Topic     string
	Partition int32
	From      *int64 // the committed offset before; nil where there was none
	To        int64  // the committed offset now, or with DryRun what it would be
}
