package main

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kpush/kpush/internal/devbroker"
)

// serveSettings are enough for serve to start, and to deliver to receivers of tests.
func serveSettings(broker string) []string {
	return []string{
		"KPUSH_DELIVERY_ALLOW_HTTP=true", "KPUSH_DELIVERY_ALLOWED_CIDRS=127.0.0.0/8", "KPUSH_DELIVERY_ALLOWED_PORTS=any",
		"KPUSH_KAFKA_BROKERS=" + broker, "KPUSH_API_LISTEN=127.0.0.1:0", "KPUSH_MANAGEMENT_LISTEN=127.0.0.1:0",
		"KPUSH_API_ADMIN_TOKEN=admin", "KPUSH_SECRET_KEY=" + testKey,
	}
}

// awaitStarted returns the URLs of the API and of the management pages.
func (r *running) awaitStarted(t *testing.T) (api, management string) {
	t.Helper()
	found := r.await(t, &r.stderr, `"msg":"gateway started".*"api":"([^"]+)","management":"([^"]+)"`)
	return "http://" + found[1], "http://" + found[2]
}

// TestServeOutlivesAMissingBroker starts without a broker: the process lives, says
// so, is not ready, and begins by itself when the broker comes.
func TestServeOutlivesAMissingBroker(t *testing.T) {
	address := freeAddress(t)
	config := write(t, "kpush.yaml", "webhooks:\n  - {id: declared, url: 'http://127.0.0.1:9', topics: [orders]}\n")
	r := start(t, serveSettings(address), "serve", "-c", config)
	api, management := r.awaitStarted(t)

	r.await(t, &r.stderr, `"level":"WARN".*no Kafka broker answers`)
	for url, want := range map[string]int{
		api + "/livez": http.StatusOK, api + "/readyz": http.StatusServiceUnavailable, management + "/readyz": http.StatusServiceUnavailable,
	} {
		if got := status(t, url); got != want {
			t.Errorf("GET %s without a broker = %d, want %d", url, got, want)
		}
	}

	broker, err := devbroker.Start(devbroker.Options{Listen: address, Ephemeral: true})
	if err != nil {
		t.Fatal(err)
	}
	defer broker.Close()
	awaitStatus(t, api+"/readyz", http.StatusOK)
	if got := status(t, management+"/metrics"); got != http.StatusOK {
		t.Errorf("GET /metrics = %d, want 200", got)
	}

	// The declared webhook's topic is missing; when it comes, so does the webhook.
	r.await(t, &r.stderr, `applying the declared webhook failed.*"webhook":"declared"|"webhook":"declared".*applying the declared webhook failed`)
	createTopic(t, address, "orders")
	r.await(t, &r.stderr, `declared webhook applied`)
	r.end(t, patience)
}

// TestServeDrains stops while a delivery is under way to a receiver that never
// answers: not ready at once, and over when the drain timeout is.
func TestServeDrains(t *testing.T) {
	const drain = time.Second
	broker, err := devbroker.Start(devbroker.Options{Listen: "127.0.0.1:0", Ephemeral: true})
	if err != nil {
		t.Fatal(err)
	}
	defer broker.Close()
	createTopic(t, broker.Addr(), "orders")
	arrived := make(chan struct{}, 1)
	receiver := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body) // only then does the server see the client go
		select {
		case arrived <- struct{}{}:
		default:
		}
		<-r.Context().Done()
	}))
	defer receiver.Close()
	config := write(t, "kpush.yaml", fmt.Sprintf("webhooks:\n  - {id: stuck, url: '%s', topics: [orders], start: earliest}\n", receiver.URL))
	produceOne(t, broker.Addr(), "orders")

	r := start(t, serveSettings(broker.Addr()), "serve", "-c", config, "--shutdown-drain-timeout", drain.String())
	api, _ := r.awaitStarted(t)
	awaitStatus(t, api+"/readyz", http.StatusOK)
	select {
	case <-arrived:
	case <-time.After(patience):
		t.Fatal("nothing was delivered")
	}
	began := time.Now()
	r.stop()
	awaitStatus(t, api+"/readyz", http.StatusServiceUnavailable)
	if early := time.Since(began); early > drain/2 {
		t.Errorf("not ready %v after the signal, want it at once", early)
	}
	r.end(t, drain+shutdownGrace)
	if took := time.Since(began); took < drain {
		t.Errorf("it ended after %v and cut the delivery short, want it to wait for %v", took, drain)
	}
}

// TestServeEndsWithoutItsBroker loses the broker under a running webhook: the end is
// as orderly and as soon as ever.
func TestServeEndsWithoutItsBroker(t *testing.T) {
	t.Parallel() // it waits most of the time
	const drain = 15 * time.Second
	broker, err := devbroker.Start(devbroker.Options{Listen: "127.0.0.1:0", Ephemeral: true})
	if err != nil {
		t.Fatal(err)
	}
	createTopic(t, broker.Addr(), "orders")
	produceOne(t, broker.Addr(), "orders")
	receiver := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer receiver.Close()
	config := write(t, "kpush.yaml", fmt.Sprintf("webhooks:\n  - {id: orphan, url: '%s', topics: [orders], start: earliest}\n", receiver.URL))
	// A process of its own: what the client hangs in ends with the process alone.
	settings := strings.Join(serveSettings(broker.Addr()), " ")
	r := command(t, t.TempDir(), fmt.Sprintf("exec env %s gateway serve -c %s --shutdown-drain-timeout %v", settings, config, drain))
	r.await(t, "partition assigned")
	if err := broker.Close(); err != nil {
		t.Fatal(err)
	}
	r.await(t, "no Kafka broker answers")
	began := time.Now()
	r.stop(t)
	if took := time.Since(began); took > drain+shutdownGrace {
		t.Errorf("it ended after %v, want %v at most", took, drain+shutdownGrace)
	}
}

func TestServeWithoutAuth(t *testing.T) {
	broker, err := devbroker.Start(devbroker.Options{Listen: "127.0.0.1:0", Ephemeral: true})
	if err != nil {
		t.Fatal(err)
	}
	defer broker.Close()
	r := start(t, append(serveSettings(broker.Addr()), "KPUSH_API_ADMIN_TOKEN="), "serve", "--insecure-no-auth")
	api, _ := r.awaitStarted(t)
	awaitStatus(t, api+"/readyz", http.StatusOK)
	if got := status(t, api+"/v1/webhooks"); got != http.StatusOK {
		t.Errorf("GET /v1/webhooks without a token = %d, want 200", got)
	}
	r.end(t, patience)
	if !strings.Contains(r.stderr.String(), "--insecure-no-auth") {
		t.Errorf("the log does not warn of --insecure-no-auth:\n%s", &r.stderr)
	}
}

// call makes a GET with the admin token and returns the body.
func call(t *testing.T, url string) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer admin")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

// createTopic makes a topic of one partition the way an operator would.
func createTopic(t *testing.T, broker, topic string) {
	t.Helper()
	client := kafkaClient(t, broker)
	defer client.Close()
	if _, err := kadm.NewClient(client).CreateTopic(t.Context(), 1, -1, nil, topic); err != nil {
		t.Fatal(err)
	}
}

func produceOne(t *testing.T, broker, topic string) {
	t.Helper()
	client := kafkaClient(t, broker)
	defer client.Close()
	if err := client.ProduceSync(t.Context(), &kgo.Record{Topic: topic, Value: []byte("{}")}).FirstErr(); err != nil {
		t.Fatal(err)
	}
}

func kafkaClient(t *testing.T, broker string) *kgo.Client {
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(broker))
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// TestTwoServesAreReplicas runs two on one broker: either takes every change, and
// when the one that leads stops, the other goes on alone.
func TestTwoServesAreReplicas(t *testing.T) {
	broker, err := devbroker.Start(devbroker.Options{Listen: "127.0.0.1:0", Ephemeral: true})
	if err != nil {
		t.Fatal(err)
	}
	defer broker.Close()
	createTopic(t, broker.Addr(), "orders")
	arrived := make(chan string, 100)
	receiver := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { arrived <- r.URL.Path }))
	defer receiver.Close()

	first := start(t, append(serveSettings(broker.Addr()), "KPUSH_REPLICA_ID=first"), "serve")
	api1, _ := first.awaitStarted(t)
	first.await(t, &first.stderr, "this replica leads")
	second := start(t, append(serveSettings(broker.Addr()), "KPUSH_REPLICA_ID=second"), "serve")
	api2, _ := second.awaitStarted(t)
	awaitStatus(t, api2+"/readyz", http.StatusOK)

	put := func(api, id string) {
		t.Helper()
		body := fmt.Sprintf(`{"url":"%s/%s","topics":["orders"]}`, receiver.URL, id)
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, api+"/v1/webhooks/"+id, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer admin")
		req.Header.Set("Content-Type", "application/json")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		answer, _ := io.ReadAll(resp.Body)
		if resp.StatusCode != http.StatusCreated || !strings.Contains(string(answer), `"secret":"whsec_`) {
			t.Fatalf("PUT %s at %s = %d %s, want 201 with the secret", id, api, resp.StatusCode, answer)
		}
	}
	put(api1, "at-the-leader")
	put(api2, "at-the-other")
	if strings.Contains(second.stderr.String(), "this replica leads") {
		t.Error("the second one leads, beside the first")
	}
	first.end(t, patience)
	put(api2, "at-the-last")
	produceOne(t, broker.Addr(), "orders")
	for waiting := map[string]bool{"/at-the-leader": true, "/at-the-other": true, "/at-the-last": true}; len(waiting) > 0; {
		select {
		case path := <-arrived:
			delete(waiting, path)
		case <-time.After(patience):
			t.Fatalf("nothing was delivered to %v", waiting)
		}
	}
	second.end(t, patience)
}

// TestCallsBetweenReplicasNeedTheirKey: what is on the API's listener for other
// replicas is for nobody else.
func TestCallsBetweenReplicasNeedTheirKey(t *testing.T) {
	broker, err := devbroker.Start(devbroker.Options{Listen: "127.0.0.1:0", Ephemeral: true})
	if err != nil {
		t.Fatal(err)
	}
	defer broker.Close()
	r := start(t, serveSettings(broker.Addr()), "serve")
	api, _ := r.awaitStarted(t)
	for _, operation := range []string{"ack", "put", "no-such"} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, api+"/internal/v1/"+operation, strings.NewReader("{}"))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer admin")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != http.StatusUnauthorized || len(body) > 0 {
			t.Errorf("%s as an admin = %d %q, want 401 and no word", operation, resp.StatusCode, body)
		}
	}
	r.end(t, patience)
}

// TestServeRefusesURLs asks a gateway of default policy, but for its port, to reach
// what it must not; none of it gets into the registry.
func TestServeRefusesURLs(t *testing.T) {
	broker, err := devbroker.Start(devbroker.Options{Listen: "127.0.0.1:0", Ephemeral: true})
	if err != nil {
		t.Fatal(err)
	}
	defer broker.Close()
	createTopic(t, broker.Addr(), "orders")
	r := start(t, append(serveSettings(broker.Addr()),
		"KPUSH_DELIVERY_ALLOW_HTTP=", "KPUSH_DELIVERY_ALLOWED_CIDRS=", "KPUSH_DELIVERY_ALLOWED_PORTS=", "KPUSH_API_PUBLIC_URL=https://gw.example.com",
	), "serve")
	api, _ := r.awaitStarted(t)
	awaitStatus(t, api+"/readyz", http.StatusOK)
	post := func(body string) (int, string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, api+"/v1/webhooks", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer admin")
		req.Header.Set("Content-Type", "application/json")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		answer, _ := io.ReadAll(resp.Body)
		return resp.StatusCode, string(answer)
	}
	for _, url := range []string{
		"http://example.com/", "https://user:pw@example.com/", "https://2130706433/", "https://127.0.0.1/", "https://169.254.169.254/latest", "https://[::1]/",
		"https://localhost/", "https://metadata.google.internal/", "https://billing/", "https://example.com:9092/", "https://example.com/#a",
		"https://gw.example.com/ack",
	} {
		for _, body := range []string{
			fmt.Sprintf(`{"url":%q,"topics":["orders"]}`, url),
			fmt.Sprintf(`{"url":"https://example.com/","lifecycle":{"url":%q},"topics":["orders"]}`, url),
		} {
			if status, answer := post(body); status != http.StatusUnprocessableEntity || !strings.Contains(answer, `"url_not_allowed"`) {
				t.Errorf("%s: %d %s, want 422 url_not_allowed", body, status, answer)
			}
		}
	}
	status, answer := post(`{"id":"good","url":"https://bücher.example/","topics":["orders"]}`)
	if status != http.StatusCreated || !strings.Contains(answer, `"url":"https://xn--bcher-kva.example/"`) {
		t.Errorf("a public name: %d %s, want 201 with the name in punycode", status, answer)
	}
	r.end(t, patience)
}

// TestU8_ADeliveryThatComesBack goes to a receiver that passes it on to the gateway's own API.
func TestU8_ADeliveryThatComesBack(t *testing.T) {
	broker, err := devbroker.Start(devbroker.Options{Listen: "127.0.0.1:0", Ephemeral: true})
	if err != nil {
		t.Fatal(err)
	}
	defer broker.Close()
	createTopic(t, broker.Addr(), "orders")
	produceOne(t, broker.Addr(), "orders")
	back := &httputil.ReverseProxy{}
	statuses := make(chan int, 1000)
	back.ModifyResponse = func(resp *http.Response) error {
		statuses <- resp.StatusCode
		return nil
	}
	receiver := httptest.NewUnstartedServer(back)
	defer receiver.Close()
	config := write(t, "kpush.yaml", fmt.Sprintf("webhooks:\n  - {id: loop, url: 'http://%s/ack', topics: [orders], start: earliest}\n", receiver.Listener.Addr()))
	r := start(t, serveSettings(broker.Addr()), "serve", "-c", config)
	api, _ := r.awaitStarted(t)
	back.Rewrite = func(p *httputil.ProxyRequest) {
		target, err := url.Parse(api)
		if err != nil {
			t.Error(err)
			return
		}
		p.SetURL(target)
	}
	receiver.Start()
	select {
	case status := <-statuses:
		if status != http.StatusLoopDetected {
			t.Errorf("the delivery was answered %d, want 508", status)
		}
	case <-time.After(patience):
		t.Fatal("no delivery came back")
	}
	r.await(t, &r.stderr, `a delivery has come back to this installation.*"webhook":"loop"`)
	r.await(t, &r.stderr, `leads back to this installation, the leader pauses it.*"webhook":"loop"`)
	if text := call(t, api+"/v1/webhooks/loop"); !strings.Contains(text, `"state":"paused","state_reason":"loop_detected"`) {
		t.Errorf("the webhook is %s, want it paused", text)
	}
	if n := len(statuses); n > 1 {
		t.Errorf("%d more deliveries came, want none once it was known", n)
	}
	r.end(t, patience)
	receiver.Close()
	http.DefaultTransport.(*http.Transport).CloseIdleConnections()
}
