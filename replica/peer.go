// Package replica is this process among its like: the replicas that share one
// registry, which of them leads, and how one calls another.
//
// Replicas find each other by Kafka's own means. Each is a member of a control
// group on the registry's topic, and bears its id and address in its client.id.
// The member that owns the topic's one partition leads: it alone writes the
// registry. Nothing of the topic is read by way of the group, and nothing is
// committed: whoever asks Kafka for the group's members has the table of peers.
package replica

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"strings"
	"unicode"
)

// Peer is one replica, as the control group knows it.
type Peer struct {
	ID  string // replica.id
	URL string // replica.advertised_url: where other replicas reach it

	// Instance is its kafka.group_instance_id, empty if it has none. By this the
	// coordinator of a webhook's group knows its member, whose client.id may be that
	// of a former process.
	Instance string
}

// Errors of calls between replicas.
var (
	// ErrNoLeader says that the control group has no owner now, or that it could
	// not be asked. It is worth trying again in a moment.
	ErrNoLeader = errors.New("no replica leads now")

	// ErrUnknownPeer says that no live replica has that id.
	ErrUnknownPeer = errors.New("no live replica has that id")

	// ErrUnreachable says that a peer gave no answer of ours: whether it did what
	// it was asked to is not known.
	ErrUnreachable = errors.New("the replica could not be reached")

	// ErrNotSent is an ErrUnreachable of which more is known: no connection came
	// about, so that the peer has heard nothing and another may be asked instead.
	ErrNotSent = fmt.Errorf("%w: nothing was sent", ErrUnreachable)
)

// Refusal is a peer's definite no: it did nothing of what it was asked to. Code is
// a word both sides know; Data says more, as JSON, where the code has more to say.
type Refusal struct {
	Code string
	Data []byte
}

func (r *Refusal) Error() string { return "the replica refused: " + r.Code }

// UnknownOperation is the code of the Refusal of a peer that has no such
// operation: it is of another version.
const UnknownOperation = "unknown_operation"

// maxIDBytes bounds an id. With its address it has to go into a client.id.
const maxIDBytes = 255

// CheckID tells what is wrong with a replica's id, nil for nothing.
func CheckID(id string) error {
	switch {
	case id == "":
		return errors.New("is empty")
	case len(id) > maxIDBytes:
		return fmt.Errorf("has more than %d bytes", maxIDBytes)
	case strings.ContainsFunc(id, func(c rune) bool { return unicode.IsSpace(c) || !unicode.IsPrint(c) }):
		return errors.New("has characters in it that are not printable, or spaces")
	}
	return nil
}

// CheckURL tells what is wrong with the address of a replica, nil for nothing. It
// is an http or https URL of a host that can be dialled, with nothing after it: no
// credentials, no path but "/", no query.
func CheckURL(address string) error {
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" {
		return errors.New("not an http or https URL")
	}
	if ip, err := netip.ParseAddr(u.Hostname()); err == nil && ip.IsUnspecified() {
		return errors.New("names no host: replicas dial it")
	}
	switch {
	case u.User != nil:
		return errors.New("must have no credentials")
	case u.Path != "" && u.Path != "/", u.RawQuery != "", u.ForceQuery, u.Fragment != "":
		return errors.New("must have nothing after the host and the port")
	}
	return nil
}

// clientPrefix begins the client.id of every client of a gateway.
const clientPrefix = "kpush-"

// clientID is what a member of the control group tells of itself:
// kpush-<id>|<url>, and |<instance> if it has one. An id may have the separator in
// it, a URL that CheckURL takes has not, nor has an instance id, which is no such
// URL either.
func (p Peer) clientID() string {
	text := clientPrefix + p.ID + "|" + p.URL
	if p.Instance != "" {
		text += "|" + p.Instance
	}
	return text
}

// parsePeer reads a client.id; ok is false for whatever clientID does not write.
func parsePeer(clientID string) (p Peer, ok bool) {
	text, ok := strings.CutPrefix(clientID, clientPrefix)
	if !ok {
		return Peer{}, false
	}
	text, last, ok := cutLast(text)
	if ok && CheckURL(last) != nil {
		p.Instance = last
		text, last, ok = cutLast(text)
	}
	if !ok {
		return Peer{}, false
	}
	p.ID, p.URL = text, last
	if CheckID(p.ID) != nil || CheckURL(p.URL) != nil || strings.HasSuffix(p.URL, "/") || p.clientID() != clientID {
		return Peer{}, false
	}
	return p, true
}

// cutLast parts a text at its last separator.
func cutLast(text string) (before, after string, found bool) {
	at := strings.LastIndexByte(text, '|')
	if at < 0 {
		return "", "", false
	}
	return text[:at], text[at+1:], true
}
