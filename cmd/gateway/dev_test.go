package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// greetingLimit is how soon dev has to tell where everything is.
const greetingLimit = 5 * time.Second

// anyPort are the flags by which dev takes ports that are free.
var anyPort = []string{
	"--api-listen=127.0.0.1:0", "--management-listen=127.0.0.1:0", "--broker-listen=127.0.0.1:0", "--echo-listen=127.0.0.1:0",
}

// TestDev does what a newcomer does: start it, run the command it shows, see records
// come; then stop it and start it again.
func TestDev(t *testing.T) {
	// The same ports both times, as they are for people.
	args := []string{"dev", "--data-dir", filepath.Join(t.TempDir(), "data")}
	for _, flag := range []string{"--api-listen", "--management-listen", "--broker-listen", "--echo-listen"} {
		args = append(args, flag, freeAddress(t))
	}

	began := time.Now()
	first := start(t, nil, args...)
	command := first.await(t, &first.stdout, `(?m)^  (curl .*)$`)[1]
	if took := time.Since(began); took > greetingLimit {
		t.Errorf("the greeting came after %v, want it within %v", took, greetingLimit)
	}
	if answer := shell(t, command); !strings.Contains(answer, `"id":"my-first"`) || !strings.Contains(answer, `"secret":"whsec_`) {
		t.Errorf("the command it shows was answered %s", answer)
	}
	first.await(t, &first.stdout, `demo  demo/\d offsets 0\.\.\d+  .* signature ok -> 200`)
	first.await(t, &first.stdout, `my-first  demo/\d offsets .* signature not checked -> 20[02]`)
	first.await(t, &first.stdout, `POST /ack  demo/\d offsets .* -> 200 committed`)
	token := first.await(t, &first.stdout, `admin token  (\w+)`)[1]
	first.end(t, patience)

	again := start(t, nil, args...)
	if got := again.await(t, &again.stdout, `admin token  (\w+)`)[1]; got != token {
		t.Errorf("admin token after the restart = %s, want %s as before", got, token)
	}
	again.await(t, &again.stdout, `demo  demo/\d offsets [1-9]\d*\.\.\d+  .* signature ok -> 20[02]`)
	again.await(t, &again.stdout, `my-first  demo/\d`)
	command = again.await(t, &again.stdout, `(?m)^  (curl .*)$`)[1]
	if answer := shell(t, command); !strings.Contains(answer, `"id":"my-first"`) || strings.Contains(answer, "whsec_") {
		t.Errorf("the same command again was answered %s, want the webhook without its secret", answer)
	}
	again.end(t, patience)
	for _, r := range []*running{first, again} {
		if text := r.stdout.String(); strings.Contains(text, "signature wrong") || strings.Contains(text, "-> 4") {
			t.Errorf("the receiver refused something:\n%s", text)
		}
	}
}

func TestDevKeepsItsKeysToItsOwner(t *testing.T) {
	dir := t.TempDir()
	if _, err := openDevState(dir); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(filepath.Join(dir, devStateName))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := info.Mode().Perm(), fs.FileMode(0o600); got != want {
		t.Errorf("mode of %s = %v, want %v", devStateName, got, want)
	}
}

func TestEphemeralDevKeepsNothing(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	r := start(t, nil, append([]string{"dev", "--ephemeral", "--data-dir", dir}, anyPort...)...)
	r.await(t, &r.stdout, "signature ok -> 200")
	r.await(t, &r.stderr, "dev delivers to receivers on this machine.*allow_http=true.*127.0.0.0/8")
	r.end(t, patience)
	if _, err := os.Stat(dir); err == nil {
		t.Errorf("%s is there", dir)
	}
}

// TestDevOnABroker uses the broker of another dev as the real one.
func TestDevOnABroker(t *testing.T) {
	other := start(t, nil, append([]string{"dev", "--ephemeral"}, anyPort...)...)
	broker := other.await(t, &other.stdout, `Kafka +(\S+)`)[1]

	r := start(t, nil, append([]string{"dev", "--data-dir", t.TempDir(), "--kafka-brokers", broker,
		"--registry-topic", "__another_registry"}, anyPort...)...)
	r.await(t, &r.stdout, "signature ok -> 200")
	r.end(t, patience)
	other.end(t, patience)
}

func TestPortInUseNamesTheFlag(t *testing.T) {
	taken := occupied(t)
	for _, flag := range []string{"--api-listen", "--management-listen", "--broker-listen", "--echo-listen"} {
		t.Run(flag, func(t *testing.T) {
			args := append([]string{"dev", "--ephemeral"}, anyPort...)
			r := start(t, nil, append(args, flag, taken)...)
			select {
			case err := <-r.ended:
				want := taken + " is in use; choose another address with " + flag
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("error = %v, want %q in it", err, want)
				}
			case <-time.After(patience):
				t.Error("it runs, with somebody else on its port")
			}
		})
	}
}
