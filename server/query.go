package server

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"reflect"
	"strings"

	"github.com/kpush/kpush/server/api"
)

// refuseUnknownQuery refuses query parameters that the operation does not have:
// a misspelt one would otherwise be passed over in silence.
func refuseUnknownQuery(next api.StrictHandlerFunc, _ string) api.StrictHandlerFunc {
	return func(ctx context.Context, w http.ResponseWriter, r *http.Request, request any) (any, error) {
		if r.URL.RawQuery == "" {
			return next(ctx, w, r, request)
		}
		query, err := url.ParseQuery(r.URL.RawQuery)
		if err != nil {
			return nil, invalid("query", "is not well encoded")
		}
		known := queryParameters(request)
		for name := range query {
			if !known[name] {
				return nil, invalid(inQuery(name), "is not a known parameter")
			}
		}
		return next(ctx, w, r, request)
	}
}

// queryParameters reads the names off the tags of a generated request object's Params.
func queryParameters(request any) map[string]bool {
	names := map[string]bool{}
	params := reflect.ValueOf(request).FieldByName("Params")
	if !params.IsValid() {
		return names
	}
	for _, field := range reflect.VisibleFields(params.Type()) {
		if name, _, _ := strings.Cut(field.Tag.Get("form"), ","); name != "" {
			names[name] = true
		}
	}
	return names
}

// maxPointer bounds what an answer repeats of a name that a client made up.
const maxPointer = 64

// inQuery is how an answer points to a query parameter.
func inQuery(name string) string {
	if len(name) > maxPointer {
		return "query"
	}
	return "query/" + name
}

// parameterError translates what the generated code says of a parameter that it
// could not read; its text would repeat the value.
func parameterError(err error) error {
	if e, ok := errors.AsType[*api.InvalidParamFormatError](err); ok {
		return invalid(inQuery(e.ParamName), "does not have the right type")
	}
	if e, ok := errors.AsType[*api.TooManyValuesForParamError](err); ok {
		return invalid("header/"+e.ParamName, "must not be given twice")
	}
	return err
}
