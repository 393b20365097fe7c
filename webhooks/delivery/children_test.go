package delivery

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"github.com/kpush/kpush/internal/childprocess"
)

// requireReceivers has tests fail that would be skipped for want of a language.
const requireReceivers = "KPUSH_TEST_REQUIRE_RECEIVERS"

// language is one in which there is an official library of Standard Webhooks.
type language struct {
	name       string
	asymmetric bool // takes a JWK for a secret, and verifies v1a with it
	start      func(t *testing.T, keys map[string]any) (url string)
}

// languages are those whose receivers are tried. A receiver is given a secret for
// each of its paths; it answers 200 to what verifies with it, and 401 to what does
// not.
var languages = []language{
	{"Go", false, startGo},
	{"JavaScript", true, javascript.start},
	{"Python", false, python.start},
}

// startGo starts a receiver in this process.
func startGo(t *testing.T, keys map[string]any) string {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		wh, err := standardwebhooks.NewWebhook(keys[strings.TrimPrefix(r.URL.Path, "/")].(string))
		if err != nil {
			w.WriteHeader(http.StatusInternalServerError)
		} else if wh.Verify(body, r.Header) != nil {
			w.WriteHeader(http.StatusUnauthorized)
		}
	}))
	t.Cleanup(s.Close)
	return s.URL
}

// child is a receiver that is a program of its own, in testdata/receivers.
type child struct {
	name    string
	needs   []string // programs
	files   []string // that say which packages it needs
	install func(ctx context.Context, dir string) *exec.Cmd
	command func(dir string) *exec.Cmd
}

var javascript = child{
	name: "javascript", needs: []string{"node", "npm"}, files: []string{"package.json", "package-lock.json"},
	install: func(ctx context.Context, dir string) *exec.Cmd {
		return exec.CommandContext(ctx, "npm", "ci", "--prefix", dir, "--ignore-scripts", "--no-audit", "--no-fund")
	},
	command: func(dir string) *exec.Cmd {
		cmd := exec.Command("node", filepath.Join(receivers, "javascript", "receiver.js"))
		cmd.Env = append(os.Environ(), "NODE_PATH="+filepath.Join(dir, "node_modules"))
		return cmd
	},
}

var python = child{
	name: "python", needs: []string{"python3"}, files: []string{"requirements.txt"},
	install: func(ctx context.Context, dir string) *exec.Cmd {
		return exec.CommandContext(ctx, "python3", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--root-user-action=ignore",
			"--no-deps", "--require-hashes", "--only-binary=:all:", "--target", filepath.Join(dir, "packages"), "-r", filepath.Join(dir, "requirements.txt"))
	},
	command: func(dir string) *exec.Cmd {
		cmd := exec.Command("python3", filepath.Join(receivers, "python", "receiver.py"))
		cmd.Env = append(os.Environ(), "PYTHONPATH="+filepath.Join(dir, "packages"), "PYTHONDONTWRITEBYTECODE=1")
		return cmd
	},
}

var (
	receivers = filepath.Join("testdata", "receivers")

	// installed is where packages of receivers are kept in a checkout, a folder Git
	// ignores.
	installed = filepath.Join("..", "..", ".cache", "receivers")
)

const installTimeout = 3 * time.Minute

// start starts the receiver, which ends with the test.
func (c child) start(t *testing.T, keys map[string]any) string {
	t.Helper()
	dir, err := c.packages(t)
	if err != nil {
		c.missing(t, err)
	}
	text, err := json.Marshal(keys)
	if err != nil {
		t.Fatal(err)
	}
	cmd := c.command(dir)
	cmd.Env = append(cmd.Env, "RECEIVER_KEYS="+string(text))
	cmd.Stderr = t.Output()
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer read.Close()
	cmd.Stdout = write
	p, err := childprocess.Start(cmd)
	write.Close()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Kill)
	port, err := bufio.NewReader(read).ReadString('\n')
	if err != nil {
		t.Fatalf("the receiver told no port: %v", err)
	}
	return "http://127.0.0.1:" + strings.TrimSpace(port)
}

// missing skips the test, or fails it where the receivers are required.
func (c child) missing(t *testing.T, why error) {
	t.Helper()
	if os.Getenv(requireReceivers) != "" {
		t.Fatalf("no receiver in %s: %v", c.name, why)
	}
	t.Skipf("no receiver in %s (a failure with %s=1): %v", c.name, requireReceivers, why)
}

// packages returns the folder with what the receiver needs, fetching it the first
// time. What is fetched is put in place whole or not at all.
func (c child) packages(t *testing.T) (string, error) {
	for _, program := range c.needs {
		if _, err := exec.LookPath(program); err != nil {
			return "", fmt.Errorf("%s is not on the path", program)
		}
	}
	hash := sha256.New()
	contents := map[string][]byte{}
	for _, name := range c.files {
		data, err := os.ReadFile(filepath.Join(receivers, c.name, name))
		if err != nil {
			t.Fatal(err)
		}
		hash.Write(data)
		contents[name] = data
	}
	root, err := filepath.Abs(installed)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(root, fmt.Sprintf("%s-%x", c.name, hash.Sum(nil)[:8]))
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	if err := os.MkdirAll(root, 0o755); err != nil {
		t.Fatal(err)
	}
	work, err := os.MkdirTemp(root, "fetch-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(work)
	for name, data := range contents {
		if err := os.WriteFile(filepath.Join(work, name), data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), installTimeout)
	defer cancel()
	if output, err := c.install(ctx, work).CombinedOutput(); err != nil {
		return "", fmt.Errorf("installing its packages: %w\n%s", err, output)
	}
	if err := os.Rename(work, dir); err != nil {
		if _, there := os.Stat(dir); there != nil { // else another process was faster
			return "", err
		}
	}
	return dir, nil
}
