package kafkanode

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
)

// Version is the Apache Kafka that nodes run, as pom.xml names it.
const Version = "4.1.1"

//go:embed pom.xml
var pom []byte

// jars returns the folder with Kafka's jars, fetching them with Maven the first
// time. Of processes that come at once one fetches, the others wait for it.
func jars(ctx context.Context) (string, error) {
	root, err := moduleRoot()
	if err != nil {
		return "", err
	}
	dir := jarsIn(root)
	if present(dir) {
		return dir, nil
	}
	mvn, err := exec.LookPath("mvn")
	if err != nil {
		return "", errors.New("the jars are not there yet and mvn, which fetches them, is not on the path")
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return "", err
	}
	unlock, err := lock(dir + ".lock")
	if err != nil {
		return "", err
	}
	defer unlock()
	if present(dir) { // another process has fetched them meanwhile
		return dir, nil
	}
	if err := fetch(ctx, mvn, dir); err != nil {
		return "", fmt.Errorf("fetching the jars of Kafka %s: %w", Version, err)
	}
	return dir, nil
}

// jarsIn is where the jars are kept in a checkout, a folder Git ignores.
func jarsIn(root string) string { return filepath.Join(root, "build", "kafka-"+Version) }

// fetch makes dir, whole or not at all.
func fetch(ctx context.Context, mvn, dir string) error {
	work, err := os.MkdirTemp(filepath.Dir(dir), "kafka-fetch-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(work) }()
	project := filepath.Join(work, "pom.xml")
	if err := os.WriteFile(project, pom, 0o644); err != nil {
		return err
	}
	fetched := filepath.Join(work, "jars")
	out, err := exec.CommandContext(ctx, mvn, "-q", "-B", "-f", project, "dependency:copy-dependencies", "-DoutputDirectory="+fetched).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w\n%s", err, out)
	}
	return os.Rename(fetched, dir)
}

// lock takes a lock between processes, which ends with the process at the latest.
func lock(path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("locking %s: %w", path, err)
	}
	return func() { _ = f.Close() }, nil
}

// moduleRoot is the nearest folder above the working one that holds a go.mod.
func moduleRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for !present(filepath.Join(dir, "go.mod")) {
		up := filepath.Dir(dir)
		if up == dir {
			return "", errors.New("no go.mod in the working folder or above it")
		}
		dir = up
	}
	return dir, nil
}

func present(path string) bool {
	_, err := os.Stat(path)
	return !errors.Is(err, fs.ErrNotExist)
}
