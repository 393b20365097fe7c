package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"
)

// demoTimeout bounds one call to our own API.
const demoTimeout = 15 * time.Second

// registerDemo registers the demo webhook by the API, as any user would, and hands
// its secret to the echo receiver. The secret is told once, so it is kept; if it got
// lost the webhook is made anew, which leaves the group's offsets where they are.
func (p *playground) registerDemo(ctx context.Context) error {
	client := &http.Client{Timeout: demoTimeout}
	defer client.CloseIdleConnections()
	err := retry(ctx, maxSetupWait, p.logger, "registering the demo webhook", func() error {
		if p.state.DemoSecrets[p.brokers] == "" {
			if err := p.deleteDemo(ctx, client); err != nil {
				return err
			}
		}
		return p.putDemo(ctx, client)
	})
	if err != nil {
		return nil // ctx ended
	}
	return p.echo.trust(p.state.DemoSecrets[p.brokers])
}

// putDemo makes the webhook, or brings its URL up to date.
func (p *playground) putDemo(ctx context.Context, client *http.Client) error {
	body, err := json.Marshal(map[string]any{
		"url":         localURL(p.echoServer) + "/" + demoWebhook,
		"topics":      []string{demoTopic},
		"start":       "earliest",
		"description": "made by gateway dev: pushes the demo topic to its echo receiver",
	})
	if err != nil {
		return err
	}
	var answer struct {
		Secret string `json:"secret"`
	}
	status, err := p.call(ctx, client, http.MethodPut, body, &answer)
	if err != nil {
		return err
	}
	switch {
	case status == http.StatusCreated && answer.Secret != "":
		p.state.DemoSecrets[p.brokers] = answer.Secret
		return p.state.save()
	case status == http.StatusOK:
		return nil
	}
	return fmt.Errorf("PUT of the webhook %s was answered %d", demoWebhook, status)
}

func (p *playground) deleteDemo(ctx context.Context, client *http.Client) error {
	status, err := p.call(ctx, client, http.MethodDelete, nil, nil)
	if err == nil && status != http.StatusNoContent && status != http.StatusNotFound {
		err = fmt.Errorf("DELETE of the webhook %s was answered %d", demoWebhook, status)
	}
	return err
}

// call makes one request about the demo webhook.
func (p *playground) call(ctx context.Context, client *http.Client, method string, body []byte, answer any) (status int, err error) {
	url := localURL(p.gateway.api) + "/v1/webhooks/" + demoWebhook
	req, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return 0, err
	}
	req.Header.Set("authorization", "Bearer "+p.config.API.AdminToken)
	req.Header.Set("content-type", "application/json")
	resp, err := client.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	if answer == nil || resp.StatusCode >= http.StatusBadRequest {
		io.Copy(io.Discard, io.LimitReader(resp.Body, 1<<20))
		return resp.StatusCode, nil
	}
	return resp.StatusCode, json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(answer)
}
