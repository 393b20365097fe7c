package replica

import (
	"errors"
	"strings"
	"testing"
)

func TestCheckURL(t *testing.T) {
	good := []string{
		"http://10.0.0.7:8080", "https://kpush-0.kpush.svc:8080", "http://host", "http://host/", "http://[fd00::1]:8080", "http://127.0.0.1:1",
	}
	for _, u := range good {
		if err := CheckURL(u); err != nil {
			t.Errorf("CheckURL(%q) = %v, want nil", u, err)
		}
	}
	bad := []string{
		"", "host:8080", "10.0.0.7:8080", "ftp://host", "http://", "http://:8080", "http://0.0.0.0:8080", "http://[::]:8080",
		"http://user@host", "http://user:secret@host", "http://host/path", "http://host//", "http://host?q=1", "http://host?", "http://host#f",
		"http://host|x", "http://host:port", "http:host", "//host",
	}
	for _, u := range bad {
		err := CheckURL(u)
		if err == nil {
			t.Errorf("CheckURL(%q) = nil, want an error", u)
		} else if strings.Contains(err.Error(), "secret") {
			t.Errorf("CheckURL(%q) repeats the password: %v", u, err)
		}
	}
}

func TestCheckID(t *testing.T) {
	for _, id := range []string{"a", "gw-7f|x", "gateway.example.com-1a2b3c", strings.Repeat("x", 255)} {
		if err := CheckID(id); err != nil {
			t.Errorf("CheckID(%q) = %v, want nil", id, err)
		}
	}
	for _, id := range []string{"", "a b", "a\nb", "a\x00", strings.Repeat("x", 256)} {
		if CheckID(id) == nil {
			t.Errorf("CheckID(%q) = nil, want an error", id)
		}
	}
}

func TestAClientIDThatIsNotOursIsNoPeer(t *testing.T) {
	for id, want := range map[string]Peer{
		"kpush-a|b|http://10.0.0.7:8080":        {ID: "a|b", URL: "http://10.0.0.7:8080"},
		"kpush-a|b|http://10.0.0.7:8080|node.1": {ID: "a|b", URL: "http://10.0.0.7:8080", Instance: "node.1"},
		"kpush-a|http://b:1|http://c:1":         {ID: "a|http://b:1", URL: "http://c:1"},
	} {
		if got, ok := parsePeer(id); !ok || got != want {
			t.Errorf("parsePeer(%q) = %+v, %v, want %+v", id, got, ok, want)
		}
	}
	for _, id := range []string{
		"", "rdkafka", "kpush-a", "kpush-|http://h:1", "kpush-a|", "kpush-a|http://h:1/", "kpush-a|http://u@h:1", "kpush-a|h:1", "a|http://h:1",
		"kpush-a|http://h:1|", "kpush-a|h:1|i",
	} {
		if p, ok := parsePeer(id); ok {
			t.Errorf("parsePeer(%q) = %+v, want none", id, p)
		}
	}
}

func FuzzParsePeer(f *testing.F) {
	f.Add("kpush-a|http://10.0.0.7:8080")
	f.Add("kpush-a|b|https://[fd00::1]:8080")
	f.Add("kpush-a|http://10.0.0.7:8080|node-1")
	f.Fuzz(func(t *testing.T, clientID string) {
		p, ok := parsePeer(clientID)
		if !ok {
			return
		}
		if CheckID(p.ID) != nil || CheckURL(p.URL) != nil {
			t.Errorf("parsePeer(%q) = %+v, which is not a valid peer", clientID, p)
		}
		if got := p.clientID(); got != clientID {
			t.Errorf("%+v is written %q, read from %q", p, got, clientID)
		}
	})
}

func TestNotSentIsAKindOfUnreachable(t *testing.T) {
	if !errors.Is(ErrNotSent, ErrUnreachable) || errors.Is(ErrUnreachable, ErrNotSent) {
		t.Error("ErrNotSent is to be an ErrUnreachable, not the other way round")
	}
}
