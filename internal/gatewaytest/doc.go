// Package gatewaytest drives a gateway from outside, the way its users and its
// operators do, and judges what it did.
//
// A Gateway is the built binary in a process of its own, which a test starts,
// stops, pauses and kills; those of one Config and its Replicas are one
// installation. A Receiver is a real HTTP server that takes deliveries,
// answers by a script and keeps a ledger of everything that came and everything
// it acked. A Kafka is a client of the broker that produces records into a
// ledger of its own and reads back what the groups committed, and who their members
// were meanwhile. Audit joins these ledgers: whatever a gateway did wrong shows
// there as an anomaly with the offsets it concerns.
//
// The rules of the audit carry the names that faults are written with: S for
// safety, O for order, L for liveness, D for duplicates.
package gatewaytest
