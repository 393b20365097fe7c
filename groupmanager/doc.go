// Package groupmanager runs the consumer groups: one per webhook, each alone.
//
//	Manager    the webhooks of the registry, each as a running group; the door for the API
//	group      one webhook: supervises its member, restarts it with backoff
//	member     one Kafka consumer: polls for events only, answers rebalances, owns the committer
//	partition  one assigned partition: its fetch side and its lane
//
// Records go down: a partition pulls them from its own queue in the client.
// Progress comes up as a value: the tenure's safe offset, which the committer
// reads when it commits. Nobody waits for the one above, so there is no cycle.
//
// # Tenures and fencing
//
// The broker fences members, not partitions: a live member may commit any
// partition. So each assignment of a partition makes one tenure, and only live
// tenures are committed, only upward, never with a negative generation. A
// statement of a receiver is good if its generation lies between the one at
// which the tenure began and the current one; equality with the current one
// alone would be wrong, since cooperative rebalances raise it while partitions
// stay.
//
// # Hand-over
//
// On revoke all partitions drain at once under one deadline: nothing new is
// sent, requests under way end, the final offsets are committed synchronously,
// then the partitions are given up. When the assignment was lost, everything is
// dropped and nothing is committed.
package groupmanager
