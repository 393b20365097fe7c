// Package receiver takes kpush deliveries in a service of your own: it checks
// signatures, reads envelopes, answers with acks, and acks later by POST /ack.
//
// A Handler is all of it behind one URL:
//
//	secrets, err := receiver.ParseSecrets(os.Getenv("KPUSH_SECRET"))
//	...
//	http.Handle("/hooks/orders", &receiver.Handler{
//		Secrets: secrets,
//		Dedupe:  receiver.NewMemory(0),
//		Deliver: func(ctx context.Context, d *receiver.Delivery) (receiver.Ack, error) {
//			for _, r := range d.Records {
//				... // an error makes the gateway send the delivery again
//			}
//			return receiver.Ack{}, nil
//		},
//	})
//
// Its parts stand on their own: a Verifier checks a signature, Parse, ParseNotice
// and ParseRequest read a body, an Acker says later what became of a delivery.
//
// Delivery is at least once: a record comes again when its ack was lost. What
// names a record is its topic, partition and offset, never the id of the delivery
// that brought it. A Dedupe drops what was processed before.
//
// The package builds on the standard library alone and knows nothing of the
// gateway but what goes over the wire.
package receiver
