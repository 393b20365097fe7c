// Package acker keeps the books of acknowledgement: which records of a
// partition were handed out, what the receiver said about them, and how far
// the consumer group may commit. Beside the books it holds the three texts that
// carry their state elsewhere: ack tokens, delivery ids and commit metadata.
//
// The package is plain data in, plain data out: no goroutine, lock, clock or
// I/O. Time comes in as an argument, and whoever owns a [Ledger] calls it from
// one goroutine. [Tokens] and [DeliveryIDs] may be shared.
//
// # The life of a delivery
//
//	state     Send     Lease     Fail      nack      reject
//	Waiting   Sent     moot      moot      Nacked    Rejected
//	Sent      -        Leased    Waiting   Nacked    Rejected
//	Leased    -        moot      Waiting   Nacked    Rejected
//	Nacked    Sent     moot      moot      repeat    conflict
//	Rejected  Sent     moot      moot      conflict  repeat
//
// From every state an ack, a dead letter or a skip of all that is left leads to
// Settled, except that an ack does not override a nack or a reject: the first outcome
// stands. It ends when the next attempt is sent; from then on an ack of any
// attempt counts, because every attempt carries the same records. A partial ack
// cuts a delivery into pieces, and each goes its own way in this table.
//
// # Promises
//
//   - [Ledger.Next], the offset to commit, never passes a record that is not
//     settled and never goes down.
//   - A statement counts wholly or not at all, whichever way it came: every
//     check comes before the first change.
//   - Records are settled from the front of a delivery only, so a delivery is
//     always a contiguous rest of what was sent. Its attempts and the time of
//     the first survive a partial ack and a split.
//   - Only what was sent in this tenure can be acked.
//   - What an earlier tenure settled, and told with its commit, is not delivered
//     again, however many tenures follow.
//   - The acked runs fit into the metadata of a commit, if nothing is entered
//     while [Ledger.Full]; unless a partial ack, or a delivery cut for what
//     cannot be sent, leaves more pieces than there is room for: of these the lowest
//     are told.
//
// Work is in proportion to the runs of consecutive offsets, not to the records
// in them: a batch without holes is one run.
package acker
