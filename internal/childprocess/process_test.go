package childprocess

import (
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// orphanVariable makes TestChildDiesWithItsParent play the parent.
const orphanVariable = "KPUSH_CHILDPROCESS_PARENT"

func TestChildDiesWithItsParent(t *testing.T) {
	if os.Getenv(orphanVariable) != "" {
		p, err := Start(exec.Command("sleep", "60"))
		if err != nil {
			t.Fatal(err)
		}
		os.Stdout.WriteString("child " + strconv.Itoa(p.Pid()) + "\n")
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestChildDiesWithItsParent$")
	cmd.Env = append(os.Environ(), orphanVariable+"=1")
	out, _ := cmd.Output() // it is killed
	_, rest, _ := strings.Cut(string(out), "child ")
	pid, err := strconv.Atoi(strings.TrimSpace(rest))
	if err != nil {
		t.Fatalf("the parent said %q, want its child's number", out)
	}
	await(t, "to die with its parent", func() bool { s := state(pid); return s == "" || s == "Z" })
}

func TestChildIsPausedContinuedKilled(t *testing.T) {
	p, err := Start(exec.Command("sleep", "60"))
	if err != nil {
		t.Fatal(err)
	}
	defer p.Kill()
	for range 2 {
		if err := p.Pause(); err != nil {
			t.Fatal(err)
		}
		await(t, "to stop", func() bool { return state(p.Pid()) == "T" })
		if err := p.Continue(); err != nil {
			t.Fatal(err)
		}
		await(t, "to go on", func() bool { return state(p.Pid()) == "S" })
	}
	if err := p.Pause(); err != nil {
		t.Fatal(err)
	}
	p.Kill()
	if state, _ := p.State(); state.Success() {
		t.Errorf("a killed child ended with %v, want a failure", state)
	}
	if err := p.Continue(); err != nil {
		t.Errorf("continuing a child that is gone: %v, want no error", err)
	}
}

// await waits until the child is as wanted.
func await(t *testing.T, want string, is func() bool) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for !is() {
		if time.Now().After(deadline) {
			t.Fatalf("the child does not seem %s", want)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// state is the letter the kernel has for what a process does, empty when there is none.
func state(pid int) string {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return ""
	}
	_, after, _ := strings.Cut(string(stat), ") ")
	return after[:1]
}
