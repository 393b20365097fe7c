package server

import (
	"context"

	"github.com/kpush/kpush/server/api"
	"github.com/kpush/kpush/webhooks/delivery"
)

// TestWebhook sends a webhook's receiver a sample.
func (o operations) TestWebhook(ctx context.Context, r api.TestWebhookRequestObject) (api.TestWebhookResponseObject, error) {
	res, err := o.gateway.Test(ctx, tenant, r.ID)
	if err != nil {
		return nil, err
	}
	return api.TestWebhook200JSONResponse{Body: testResult(res)}, nil
}

// testResult is what is told of a result: nothing of what was read but the status.
func testResult(res delivery.Result) api.TestResult {
	told := api.TestResult{DurationMs: res.Took.Milliseconds()}
	switch res.Verdict {
	case delivery.Acked, delivery.Received, delivery.Stated:
		told.Delivered = true
	default:
		told.Code = &res.Code
	}
	if res.Status != 0 {
		told.Status = &res.Status
	}
	return told
}
