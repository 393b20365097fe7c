package api

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/google/go-cmp/cmp"

	"github.com/kpush/kpush"
)

// TestOpenAPIIsValid also holds every example against its schema.
func TestOpenAPIIsValid(t *testing.T) {
	doc, err := openapi3.NewLoader().LoadFromData(kpush.OpenAPI)
	if err != nil {
		t.Fatalf("loading openapi.yaml: %v", err)
	}
	if err := doc.Validate(t.Context(), openapi3.EnableSchemaFormatValidation()); err != nil {
		t.Errorf("openapi.yaml is not valid: %v", err)
	}
}

// TestOpenAPIAgreesWithItself about the length of a group's name: a client that was
// generated from it could not ack for a group that it could give to a webhook.
func TestOpenAPIAgreesWithItself(t *testing.T) {
	doc, err := openapi3.NewLoader().LoadFromData(kpush.OpenAPI)
	if err != nil {
		t.Fatalf("loading openapi.yaml: %v", err)
	}
	schemas := doc.Components.Schemas
	want, got := schemas["GroupID"].Value.MaxLength, schemas["AckByFields"].Value.Properties["group_id"].Value.MaxLength
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the longest group_id of an ack is not that of a webhook (-want +got):\n%s", diff)
	}
}

// TestGeneratedCodeIsCurrent runs the generator into another folder and
// compares; "go generate ./server/api" brings the two together.
func TestGeneratedCodeIsCurrent(t *testing.T) {
	out := filepath.Join(t.TempDir(), "api.gen.go")
	cmd := exec.CommandContext(t.Context(), "go", "tool", "-modfile=../../tools/go.mod", "oapi-codegen",
		"-config", "oapi-codegen.yaml", "-o", out, "../../openapi.yaml")
	if msg, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("generating: %v\n%s", err, msg)
	}
	want, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile("api.gen.go")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("api.gen.go is not what openapi.yaml generates (-want +got):\n%s", diff)
	}
}
