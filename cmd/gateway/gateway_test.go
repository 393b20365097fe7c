package main

import "testing"

// Kafka knows a static member by its instance id, also after a restart; so do the
// other replicas then.
func TestTheReplicasID(t *testing.T) {
	var c Config
	if a, b := replicaID(c), replicaID(c); a == "" || a == b {
		t.Errorf("ids made up are %q and %q, want two that differ", a, b)
	}
	c.Kafka.GroupInstanceID = "node-1"
	if got := replicaID(c); got != "node-1" {
		t.Errorf("id %q, want the instance id, which outlives a restart", got)
	}
	c.Replica.ID = "gateway-1"
	if got := replicaID(c); got != "gateway-1" {
		t.Errorf("id %q, want the one configured", got)
	}
}
