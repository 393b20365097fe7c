package server

import (
	"bytes"
	"context"

	"github.com/kpush/kpush"
	"github.com/kpush/kpush/server/api"
)

var healthy = api.HealthyJSONResponse{Body: api.Health{Status: api.HealthStatusOk}}

func (o operations) Livez(context.Context, api.LivezRequestObject) (api.LivezResponseObject, error) {
	return api.Livez200JSONResponse{HealthyJSONResponse: healthy}, nil
}

func (o operations) Readyz(context.Context, api.ReadyzRequestObject) (api.ReadyzResponseObject, error) {
	if o.draining.Load() {
		return nil, &unreadyError{"draining"}
	}
	if err := o.gateway.Ready(); err != nil {
		return nil, &unreadyError{err.Error()}
	}
	return api.Readyz200JSONResponse{HealthyJSONResponse: healthy}, nil
}

func (o operations) Version(context.Context, api.VersionRequestObject) (api.VersionResponseObject, error) {
	v := o.version
	return api.Version200JSONResponse{Body: api.Version{Version: v.Version, Commit: v.Commit, GoVersion: v.Go}}, nil
}

func (o operations) Openapi(context.Context, api.OpenapiRequestObject) (api.OpenapiResponseObject, error) {
	return api.Openapi200ApplicationYamlResponse{
		Body:          bytes.NewReader(kpush.OpenAPI),
		ContentLength: int64(len(kpush.OpenAPI)),
	}, nil
}
