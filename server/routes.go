package server

import (
	"net/http"
	"net/http/pprof"

	"github.com/go-chi/chi/v5"

	"github.com/kpush/kpush/server/api"
)

// routes are those of openapi.yaml, in its order. A request passes through the
// bookkeeping of Use, then its route is found, then come credentials and body.
func (s *Server) routes() http.Handler {
	r := chi.NewRouter()
	r.Use(s.bounded, s.identified, s.accessLog, s.traced(), spanRoute, s.recovered, s.noLoop)
	r.NotFound(s.handle(notFound))
	r.MethodNotAllowed(s.handle(methodNotAllowed))

	op := s.operations()
	admin := r.With(s.requireAdmin)
	ack := r.With(s.noteCaller, s.jsonBody)

	admin.Get("/v1/webhooks", op.ListWebhooks)
	admin.With(s.jsonBody).Post("/v1/webhooks", op.CreateWebhook)
	admin.Get("/v1/webhooks/{id}", op.GetWebhook)
	admin.With(s.jsonBody).Put("/v1/webhooks/{id}", op.PutWebhook)
	admin.Delete("/v1/webhooks/{id}", op.DeleteWebhook)
	admin.Post("/v1/webhooks/{id}/pause", op.PauseWebhook)
	admin.Post("/v1/webhooks/{id}/resume", op.ResumeWebhook)
	admin.Post("/v1/webhooks/{id}/test", op.TestWebhook)
	admin.With(s.optionalJSONBody).Post("/v1/webhooks/{id}/secret/rotate", op.RotateSecret)
	admin.Get("/v1/webhooks/{id}/partitions", op.ListPartitions)
	admin.With(s.jsonBody).Put("/v1/webhooks/{id}/offsets", op.SeekWebhook)

	ack.Post("/ack", op.Ack)
	ack.Post("/v1/ack", op.Ack)

	r.Get("/.well-known/jwks.json", op.GetPublicKeys)

	r.Get("/livez", op.Livez)
	r.Get("/readyz", op.Readyz)
	r.Get("/version", op.Version)
	r.Get("/openapi.yaml", op.Openapi)
	return r
}

// internalPath is where replicas call each other. It is no part of the API, and of
// what the API does to a request only the bookkeeping is done to theirs.
const internalPath = "/internal/v1/"

func (s *Server) internalRoutes(h http.Handler) http.Handler {
	r := chi.NewRouter()
	r.Use(s.identified, s.accessLog, s.recovered, s.noLoop)
	r.Handle(internalPath+"*", h)
	return r
}

// Management returns the pages for operators, which ask for no credentials and
// belong on a listener of their own: metrics as the handler given serves them,
// health, the version and profiles.
func (s *Server) Management(metrics http.Handler) http.Handler {
	r := chi.NewRouter()
	r.Use(s.bounded, s.identified, s.accessLog, s.recovered, s.noLoop)
	r.NotFound(s.handle(notFound))
	r.MethodNotAllowed(s.handle(methodNotAllowed))

	op := s.operations()
	r.Method(http.MethodGet, "/metrics", metrics)
	r.Get("/livez", op.Livez)
	r.Get("/readyz", op.Readyz)
	r.Get("/version", op.Version)

	r.Get("/debug/pprof/", pprof.Index)
	r.Get("/debug/pprof/{profile}", pprof.Index)
	r.Get("/debug/pprof/cmdline", pprof.Cmdline)
	r.Get("/debug/pprof/profile", pprof.Profile)
	r.Get("/debug/pprof/symbol", pprof.Symbol)
	r.Post("/debug/pprof/symbol", pprof.Symbol)
	r.Get("/debug/pprof/trace", pprof.Trace)
	return r
}

// operations are the handlers of openapi.yaml, with parameters and bodies decoded.
func (s *Server) operations() *api.ServerInterfaceWrapper {
	around := []api.StrictMiddlewareFunc{s.withTimeout, refuseUnknownQuery}
	return &api.ServerInterfaceWrapper{
		Handler: api.NewStrictHandlerWithOptions(operations{s}, around, api.StrictHTTPServerOptions{
			RequestErrorHandlerFunc:  s.fail,
			ResponseErrorHandlerFunc: s.fail,
		}),
		ErrorHandlerFunc: func(w http.ResponseWriter, r *http.Request, err error) {
			s.fail(w, r, parameterError(err))
		},
	}
}

// operations implements the interface generated from openapi.yaml.
type operations struct{ *Server }

var _ api.StrictServerInterface = operations{}
