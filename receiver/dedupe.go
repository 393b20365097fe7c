package receiver

import "context"

// A Dedupe knows which records were processed before. It is called from many
// goroutines at once.
//
// The surest one is in the database that the processing writes to: put topic,
// partition and offset there in the same transaction. With ordering "partition" the
// highest offset of each partition is all it has to keep. With any other ordering, or
// once a Partial has sent records back to be retried, lower offsets come after
// higher ones, and a mere highest offset would take them for processed: they
// would be acked and lost.
type Dedupe interface {
	// Seen tells for each record of d, in their order, whether it was processed
	// before. If in doubt it was not. An error fails the delivery, which comes again.
	Seen(ctx context.Context, d *Delivery) ([]bool, error)
}

// A Recorder is a Dedupe that a Handler tells what was processed. One that looks
// where Deliver itself writes needs no telling.
type Recorder interface {
	Dedupe

	// Processed tells that these records of d were processed. It is called before the
	// delivery is answered, and not for what was answered with an error, Nack,
	// Extend, Reject or Later: who acks later tells by himself.
	Processed(d *Delivery, records []Record)
}

// fresh takes out of d the records that were seen. It returns how many are left.
func fresh(ctx context.Context, dedupe Dedupe, d *Delivery) (int, error) {
	seen, err := dedupe.Seen(ctx, d)
	if err != nil {
		return 0, err
	}
	if len(seen) != len(d.Records) {
		return 0, errSeen
	}
	left := d.Records[:0]
	for i, r := range d.Records {
		if !seen[i] {
			left = append(left, r)
		}
	}
	clear(d.Records[len(left):])
	d.Records = left
	return len(left), nil
}
