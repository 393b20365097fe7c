// Package test holds the suites on real Apache Kafka: one broker for the whole
// package, the gateway as the built binary in a process of its own, receivers
// that are real HTTP servers. Every test ends with the audit of package
// gatewaytest: each record up to the committed offset was acked, dead-lettered
// or skipped by policy, and nothing beyond was committed.
//
// Without Java or Maven the tests are skipped with one line;
// KPUSH_REQUIRE_KAFKA=1 turns the skip into a failure.
package test
