// Package faults breaks things on purpose, on real Apache Kafka, with gateways as
// processes of their own, and holds what they did against the ledgers: every test
// bears the id of a fault and ends with the audit of package gatewaytest, beside
// the measure that the fault has of its own.
//
// Faults of one broker share a single node, those that move leaders or
// coordinators a cluster of three. Sessions last six seconds, heartbeats come
// every 1.5, a poll may take ten.
//
// Without Java or Maven the tests are skipped with one line;
// KPUSH_REQUIRE_KAFKA=1 turns the skip into a failure.
package faults
