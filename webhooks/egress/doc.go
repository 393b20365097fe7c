// Package egress is the door to the network for every request whose target a user
// has chosen: deliveries, lifecycle calls, and what comes to join them. It decides
// which URLs may be registered and, after a name has been resolved, which addresses
// are dialled; what it refuses never gets a packet.
//
// A Guard works when a connection is made and not with each request over it. The
// rule for addresses is in address.go, what an operator may change about it is the
// Policy. It is code of our own, over net/netip, because what we need beside the
// tables of a library (code.dny.dev/ssrf, against which our tests hold them) is the
// larger part: a name is refused as a whole, metadata services stay closed within
// an allowed range, NAT64 is judged by what it leads to, and a policy can be changed.
//
// No proxy of the environment is asked for anything: behind one it would be the
// proxy that is judged.
package egress
