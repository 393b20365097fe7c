// Package api is the server's side of openapi.yaml: parameters, answers and the
// interface that package server implements. All but this file is generated.
package api

import "github.com/kpush/kpush/webhooks"

//go:generate go tool -modfile=../../tools/go.mod oapi-codegen -config oapi-codegen.yaml -o api.gen.go ../../openapi.yaml

// CreatedWebhook is a new webhook, and its secret this once.
type CreatedWebhook struct {
	webhooks.Webhook
	Secret string `json:"secret"` // whsec_ and base64
}
