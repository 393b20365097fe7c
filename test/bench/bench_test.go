package main

import (
	"encoding/json"
	"testing"
	"unicode/utf8"
)

func TestADocumentIsJSONOfItsSize(t *testing.T) {
	for _, size := range []int{200, 1024, 5000} {
		if d := document(size); len(d) != size || !json.Valid(d) {
			t.Errorf("document(%d) has %d bytes, valid %v", size, len(d), json.Valid(d))
		}
	}
}

func TestNoiseIsNoText(t *testing.T) {
	if n := noise(1024); len(n) != 1024 || utf8.Valid(n) {
		t.Errorf("noise of %d bytes, a text: %v", len(n), utf8.Valid(n))
	}
}
