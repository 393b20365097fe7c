// Package kpush holds what all of the product shares with its users: the
// description of its API.
package kpush

import _ "embed"

// OpenAPI is openapi.yaml, the OpenAPI 3.1 description of the API. It is the
// source of package server/api and is served at /openapi.yaml.
//
//go:embed openapi.yaml
var OpenAPI []byte
