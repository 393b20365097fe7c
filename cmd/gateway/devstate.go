package main

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// devState is what "gateway dev" has to know again after a restart. It lives in one
// file of the data folder that only its owner can read.
type devState struct {
	AdminToken string `json:"admin_token"`
	SecretKey  string `json:"secret_key"`

	// DemoSecrets are the signing secrets of the demo webhook, by the brokers whose
	// registry it is in.
	DemoSecrets map[string]string `json:"demo_secrets"`

	file string // empty: kept nowhere
}

// devStateName is the state's file in the data folder.
const devStateName = "dev.json"

// openDevState reads the state in dir, or makes a new one; with an empty dir it is
// new each time and kept nowhere.
func openDevState(dir string) (*devState, error) {
	s := &devState{AdminToken: rand.Text(), SecretKey: newSecretKey(), DemoSecrets: map[string]string{}}
	if dir == "" {
		return s, nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the data folder (--data-dir): %w", err)
	}
	s.file = filepath.Join(dir, devStateName)
	data, err := os.ReadFile(s.file)
	if errors.Is(err, fs.ErrNotExist) {
		return s, s.save()
	}
	if err != nil {
		return nil, fmt.Errorf("reading the state of dev: %w", err)
	}
	if err := json.Unmarshal(data, s); err != nil {
		return nil, fmt.Errorf("reading %s: %w", s.file, err)
	}
	return s, nil
}

// save writes the state beside its file and moves it into place.
func (s *devState) save() error {
	if s.file == "" {
		return nil
	}
	data, err := json.MarshalIndent(s, "", "  ")
	if err == nil {
		err = os.WriteFile(s.file+".new", data, 0o600)
	}
	if err == nil {
		err = os.Rename(s.file+".new", s.file)
	}
	if err != nil {
		return fmt.Errorf("keeping the state of dev: %w", err)
	}
	return nil
}

func newSecretKey() string {
	var key [32]byte
	rand.Read(key[:]) // never fails
	return base64.StdEncoding.EncodeToString(key[:])
}
