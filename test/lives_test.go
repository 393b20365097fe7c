package test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kpush/kpush/internal/freeport"
	"github.com/kpush/kpush/internal/gatewaytest"
)

func TestRegistrySurvivesAKill(t *testing.T) {
	s := newScene(t, 1, gatewaytest.OK)
	s.kafka.Produce(t, s.produced, numbered(s.topic, 0, 5)...)
	webhook := s.register(t, object{"description": "kept"})
	s.gateway.Kill(t) // the 201 has just been read
	s.restart(t)
	var kept struct {
		GroupID, Description string
		Secret               *string
	}
	s.gateway.API.Must(t, 200, http.MethodGet, "/v1/webhooks/"+s.id, nil).Into(t, &kept)
	if kept.Description != "kept" || kept.Secret != nil {
		t.Errorf("after the kill the webhook is %+v, want it as it was, without its secret", kept)
	}
	if got := s.gateway.API.Webhook(t, s.id).GroupID; got != webhook.GroupID {
		t.Errorf("after the kill the group is %s, want %s", got, webhook.GroupID)
	}
	s.awaitDistinct(t, 5, soon) // signed with the secret of the 201: the receiver checks
	s.finish(t, soon)

	s.gateway.API.Must(t, 204, http.MethodDelete, "/v1/webhooks/"+s.id, nil)
	s.gateway.Kill(t)
	s.restart(t)
	s.gateway.API.Must(t, 404, http.MethodGet, "/v1/webhooks/"+s.id, nil)
}

func TestLatestIsPinnedByThe201(t *testing.T) {
	s := newScene(t, 1, gatewaytest.OK)
	before := new(gatewaytest.Produced)
	s.kafka.Produce(t, before, numbered(s.topic, 0, 3)...)
	s.register(t, object{"start": "latest"})
	s.gateway.Kill(t) // before anything can have been assigned
	s.kafka.Produce(t, s.produced, numbered(s.topic, 0, 4)...)
	s.restart(t)
	s.awaitDistinct(t, 4, soon)
	s.awaitEnd(t, soon)
	e := s.evidence(t)
	e.Ends = s.kafka.Ends(t, s.topic)
	e.Start = map[gatewaytest.Partition]int64{{Topic: s.topic, ID: 0}: 3}
	gatewaytest.Audit(e).Check(t)
}

// TestBrokerDownAtStart begins with an address where nothing listens; the way
// to the broker opens later.
func TestBrokerDownAtStart(t *testing.T) {
	brokers := brokersOf(t)
	kafka := gatewaytest.DialKafka(t, brokers)
	port, err := freeport.Take()
	if err != nil {
		t.Fatal(err)
	}
	address := freeport.Address(port)

	s := &scene{
		kafka: kafka, config: gatewaytest.NewConfig(t, address), receiver: gatewaytest.NewReceiver(t, gatewaytest.OK),
		produced: new(gatewaytest.Produced), topic: gatewaytest.Name(t), id: gatewaytest.Name(t),
	}
	s.gateway = gatewaytest.LaunchGateway(t, s.config)
	gatewaytest.Await(t, soon, func() error {
		reply, err := s.gateway.API.Call(t.Context(), http.MethodGet, "/livez", nil)
		if err != nil || reply.Status != http.StatusOK {
			return fmt.Errorf("not alive: %+v, %v", reply, err)
		}
		return nil
	})
	for range 3 {
		s.quietGateway(t)
	}
	if lines := strings.Count(s.gateway.Log(), "\n"); lines > 100 {
		t.Errorf("%d lines of log in a few seconds, want one a backoff:\n%s", lines, s.gateway.Log())
	}

	forward(t, address, brokers)
	s.gateway.AwaitReady(t)
	s.kafka.CreateTopic(t, s.topic, 1)
	s.kafka.Produce(t, s.produced, numbered(s.topic, 0, 5)...)
	s.register(t, nil)
	s.awaitDistinct(t, 5, soon)
	s.finish(t, soon)
}

// quietGateway waits a moment and checks that the gateway lives, is not ready, and says so.
func (s *scene) quietGateway(t *testing.T) {
	t.Helper()
	select {
	case <-s.gateway.Done():
		t.Fatal("the gateway ended without a broker, want it to live")
	case <-time.After(quietTime):
	}
	if err := s.gateway.Ready(t.Context()); err == nil || !strings.Contains(err.Error(), "503") {
		t.Errorf("readiness without a broker: %v, want 503", err)
	}
}

// forward passes connections to one address on to another until the test ends.
func forward(t *testing.T, from, to string) {
	t.Helper()
	listener, err := net.Listen("tcp", from)
	if err != nil {
		t.Fatalf("opening the way to the broker: %v", err)
	}
	var (
		mu    sync.Mutex
		conns []net.Conn
		wait  sync.WaitGroup
	)
	keep := func(c net.Conn) {
		mu.Lock()
		defer mu.Unlock()
		conns = append(conns, c)
	}
	wait.Go(func() {
		for {
			in, err := listener.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", to)
			if err != nil {
				in.Close()
				continue
			}
			keep(in)
			keep(out)
			wait.Go(func() { io.Copy(out, in); out.Close() })
			wait.Go(func() { io.Copy(in, out); in.Close() })
		}
	})
	t.Cleanup(func() {
		listener.Close()
		mu.Lock()
		for _, c := range conns {
			c.Close()
		}
		mu.Unlock()
		wait.Wait()
	})
}

func TestTopicDeletedUnderAWebhook(t *testing.T) {
	s := newScene(t, 1, gatewaytest.OK)
	doomed := s.topic + "-doomed"
	s.kafka.CreateTopic(t, doomed, 1)
	s.kafka.Produce(t, new(gatewaytest.Produced), numbered(doomed, 0, 3)...)
	s.kafka.Produce(t, s.produced, numbered(s.topic, 0, 3)...)
	s.register(t, nil)
	s.gateway.API.Register(t, "doomed", object{"url": s.receiver.URL("doomed"), "topics": []string{doomed}, "start": "earliest"})
	s.awaitDistinct(t, 3, soon)
	gatewaytest.Await(t, soon, func() error {
		if got := s.receiver.Distinct("doomed"); got != 3 {
			return fmt.Errorf("%d of 3 records arrived", got)
		}
		return nil
	})

	if _, err := s.kafka.Admin().DeleteTopics(t.Context(), doomed); err != nil {
		t.Fatalf("deleting topic %s: %v", doomed, err)
	}
	gatewaytest.Await(t, later, func() error {
		w := s.gateway.API.Webhook(t, "doomed")
		if w.State != "failed" || w.StateReason == nil || !strings.Contains(*w.StateReason, "topic") {
			return fmt.Errorf("the webhook is %s, reason %v; want it failed because of its topic", w.State, w.StateReason)
		}
		return nil
	})
	s.kafka.Produce(t, s.produced, numbered(s.topic, 0, 3)...)
	s.awaitDistinct(t, 6, soon)
	if w := s.gateway.API.Webhook(t, s.id); w.State != "active" {
		t.Errorf("the other webhook is %s, want active", w.State)
	}
	if report := s.finish(t, soon); report.Repeats != 0 {
		t.Errorf("%d records of the other webhook came again, want none", report.Repeats)
	}
}
