// Package groupmanager runs the consumer groups: one per webhook, each alone.
//
//	Manager    the webhooks of the registry, each as a running group; the door for the API
//	group      one webhook: supervises its member, restarts it with backoff
//	member     one Kafka consumer: polls for events only, answers rebalances, owns the committer
//	partition  one assigned partition: its fetch side and its lane
//
// Each replica runs a member of every group, and Kafka shares the partitions out
// among them. See Replicas below for what they do for each other.
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
//
// # Replicas
//
// Any replica takes any call of the API, and one answers it: the leader a change of
// the registry, with its checks and the pinning of offsets; the owner of a partition
// an ack; all of them together what they hold (/partitions) and what fails (state).
// What they ask of each other is listed in operations.go, and is never passed on.
//
// A pause and a deletion are answered when every replica has read them and sends
// nothing new (quiesce.go), a seek when the owners have moved (seek.go). Where it is
// not known whether something was done the answer is webhooks.ErrUnavailable, and
// nothing is done twice that may have been done.
package groupmanager
