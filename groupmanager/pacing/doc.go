// Package pacing decides when attempts of one webhook may go out from this replica:
// kindly to a receiver that is sick, and fairly among webhooks. It is asked once
// for each request, never waits, and starts no goroutine; time comes from whoever asks.
//
//	Pacer  one webhook on one replica: its circuit, its limits, and who waits for them
//	Line   one partition's place before it
//	Pass   one delivery's, over all its attempts
//	Share  what all webhooks of a replica may have under way, in bytes
//
// A Line that is told to wait has a place in the Pacer's queue, first come first
// served. The first of the queue is told when to come again, or is nudged; those behind
// it are nudged when their turn has come, so that a thousand lines cost no more timers
// than one.
//
// # The circuit
//
//	          too many failures                   the pause is over, somebody asks
//	closed ───────────────────────▶ open ─────────────────────────────────▶ half-open
//	  ▲                              ▲                                       │   │
//	  │                              └─── the probe fails, the next pause ───┘   │
//	  └────────────────────────── the probe is answered ─────────────────────────┘
//
// Closed, everything goes. It opens when there was
//
//   - no answer but failures five times and for two seconds, or twenty times, or
//   - a share of 80 % failures among fifty attempts or more of the last ten seconds, or
//   - no credit left, the retry budget: each first attempt gives one credit, up to twenty; a
//     retry takes one, and gives it back if it is answered. So as many retries may fail as
//     there were first attempts, and twenty: a receiver that fails half of the attempts
//     has all of its retries, one that fails two of three does not.
//
// Open, nothing goes until a pause is over: 1, 2, 4, 5 s, then a twelfth of the outage, at
// most 30 s, or the webhook's longest backoff if that is less; and within that ± a quarter.
// Then one attempt goes, the probe, and no other before it has ended. What was begun
// before the circuit opened says nothing about it any more.
//
// A single delivery may fail for what is in it. As long as all failures are of one
// delivery, the circuit is open for that one alone: one other at a time may pass it
// aside. If that fails too, the receiver is sick; if it is answered, the circuit closes.
//
// Closed again, the number of attempts at once grows from one to what is usual, over a
// fifth of the time it was open, at least half a second and at most three.
//
// # Limits
//
// At once: as many as the lines are allowed together, fewer while the receiver says or
// shows that it is too much (429, 503, timeouts): each second with ten attempts or
// more lowers the limit by half the share of those, and 30 s bring all of it back. How long an
// answer takes is no sign: a receiver that needs 5 s for some is not sick.
//
// Retry-After with a 429, or with a 503 that is not the first failure in a row, holds all
// of the webhook for that long.
//
// In a second: requests, records and bytes as the webhook says. Whoever comes when
// the account is not overdrawn may go, however much that is, and is charged for all of it.
//
// In bytes under way: see Share.
package pacing
