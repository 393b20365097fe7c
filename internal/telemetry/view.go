package telemetry

import (
	"strings"

	"go.opentelemetry.io/otel/attribute"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
)

// Bucket boundaries. Time runs from a receiver in the same rack to the longest
// request timeout that is allowed; sizes over every batch that is allowed.
var (
	secondBuckets = []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600}
	recordBuckets = []float64{1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000}
)

// callerWritten are the attributes of HTTP server metrics that come from the Host
// header: whoever can send a request could make series without end.
var callerWritten = attribute.NewDenyKeysFilter("server.address", "server.port")

// view shapes every instrument of the process. It is one function, since an
// instrument that two views match would be exported twice.
func view(i sdkmetric.Instrument) (sdkmetric.Stream, bool) {
	s := sdkmetric.Stream{Name: i.Name, Description: i.Description, Unit: i.Unit}
	shaped := false
	if i.Kind == sdkmetric.InstrumentKindHistogram {
		switch i.Unit {
		case UnitSeconds:
			s.Aggregation, shaped = sdkmetric.AggregationExplicitBucketHistogram{Boundaries: secondBuckets}, true
		case UnitRecords:
			s.Aggregation, shaped = sdkmetric.AggregationExplicitBucketHistogram{Boundaries: recordBuckets}, true
		}
	}
	if strings.HasPrefix(i.Name, "http.server.") {
		s.AttributeFilter, shaped = callerWritten, true
	}
	return s, shaped
}
