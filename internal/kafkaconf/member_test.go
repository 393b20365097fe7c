package kafkaconf

import "testing"

func TestAnInstallationKnowsItsOwnMembers(t *testing.T) {
	ours, theirs := MembersOf("__kpush_registry"), MembersOf("__kpush_registry_of_another")
	for _, id := range []string{"a", "gw-7f|x", "kpush-a"} {
		if got, ok := ours.Replica(ours.ClientID(id)); !ok || got != id {
			t.Errorf("its own %q is read as %q, %v", ours.ClientID(id), got, ok)
		}
		if got, ok := ours.Replica(theirs.ClientID(id)); ok {
			t.Errorf("%q of another installation is taken for replica %q", theirs.ClientID(id), got)
		}
	}
	for _, id := range []string{"", "rdkafka", "kpush-a", "kpush-a|http://h:1"} {
		if got, ok := ours.Replica(id); ok {
			t.Errorf("%q is taken for replica %q", id, got)
		}
	}
	if got, want := ours.ClientID("a"), MembersOf("__kpush_registry").ClientID("a"); got != want {
		t.Errorf("client.id %q, and of another process of the installation %q", got, want)
	}
}
