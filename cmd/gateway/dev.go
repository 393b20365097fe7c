package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/kpush/kpush/internal/devbroker"
	"github.com/kpush/kpush/webhooks/egress"
)

const (
	demoWebhook = "demo"

	// echoListen is where the echo receiver listens by default.
	echoListen = "127.0.0.1:8082"

	// bannerPatience is how long the greeting waits for the gateway to be ready, so
	// that the command it shows works at once.
	bannerPatience = 4 * time.Second

	echoHeaderTimeout = 10 * time.Second

	readyPoll    = 50 * time.Millisecond
	maxSetupWait = 10 * time.Second // between attempts to register the demo webhook

	// embedded stands for the embedded broker where brokers are named.
	embedded = "embedded"
)

// devOptions are the flags of dev that are no settings of the gateway.
type devOptions struct {
	ephemeral    bool
	brokerListen string
	echoListen   string
}

func devCommand(environ []string) *cobra.Command {
	var opts devOptions
	cmd := &cobra.Command{
		Use:   "dev",
		Short: "Run everything in one process: broker, gateway, demo and receiver",
		Long: "Run a Kafka broker, the gateway, a demo topic with a sample producer and an echo\n" +
			"receiver in one process, for trying things out. With --kafka-brokers the broker\n" +
			"is a real one.",
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := loadConfig(devDefaults(), environ, cmd.Flags())
			if err != nil {
				return usageError{err}
			}
			if opts.ephemeral && len(c.Kafka.Brokers) > 0 {
				return usageError{errors.New("--ephemeral is for the embedded broker: on real brokers the webhooks stay, and with them the need for the keys in --data-dir")}
			}
			return dev(cmd.Context(), c, opts, cmd.OutOrStdout(), newLogger(c.Log, cmd.ErrOrStderr()))
		},
	}
	addFlags(cmd.Flags(), devDefaults())
	cmd.Flags().BoolVar(&opts.ephemeral, "ephemeral", false, "keep nothing on disk")
	cmd.Flags().StringVar(&opts.brokerListen, "broker-listen", devbroker.DefaultListen, "address of the embedded broker")
	cmd.Flags().StringVar(&opts.echoListen, "echo-listen", echoListen, "address of the echo receiver")
	cmd.Flags().Lookup("kafka-brokers").Usage = "brokers to use instead of the embedded one, as host:port"
	return cmd
}

// devDefaults are the defaults of dev: everything on this machine, for one person.
// Without brokers the embedded one runs. Receivers are on this machine, too.
func devDefaults() Config {
	c := defaultConfig()
	c.Kafka.Brokers, c.EmbeddedBroker = nil, true
	c.API.Listen = "127.0.0.1:8080"
	c.Log.Format = logText
	c.Delivery.AllowHTTP = true
	c.Delivery.AllowedCIDRs, c.Delivery.AllowedPorts = []string{"127.0.0.0/8", "::1/128"}, []string{egress.AnyPort}
	return c
}

// playground is a running dev.
type playground struct {
	config  Config
	opts    devOptions
	state   *devState
	brokers string // embedded, or their addresses: whose registry it is
	out     io.Writer
	logger  *slog.Logger

	gateway    *gateway
	echo       *echo
	echoServer *listener
}

// dev runs until ctx ends.
func dev(ctx context.Context, c Config, opts devOptions, out io.Writer, logger *slog.Logger) (err error) {
	dir := c.DataDir
	if opts.ephemeral {
		dir = ""
	}
	p := &playground{config: c, opts: opts, brokers: strings.Join(c.Kafka.Brokers, ","), out: out, logger: logger}
	if p.state, err = openDevState(dir); err != nil {
		return err
	}
	if p.brokers == "" {
		broker, err := startBroker(opts, dir, logger)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, broker.Close()) }()
		p.brokers, p.config.Kafka.Brokers = embedded, []string{broker.Addr()}
	}
	if p.config.API.AdminToken == "" {
		p.config.API.AdminToken = p.state.AdminToken
	}
	if len(p.config.SecretKey) == 0 {
		p.config.SecretKey = []string{p.state.SecretKey}
	}
	logger.Info("dev delivers to receivers on this machine, unlike serve",
		"allow_http", c.Delivery.AllowHTTP, "allowed_cidrs", c.Delivery.AllowedCIDRs, "allowed_ports", c.Delivery.AllowedPorts)
	p.echo = newEcho(out, ctx.Done())
	if secret := p.state.DemoSecrets[p.brokers]; secret != "" {
		if err := p.echo.trust(secret); err != nil {
			return err
		}
	}
	echoListener, err := listen(opts.echoListen, "echo-listen")
	if err != nil {
		return err
	}
	if p.gateway, err = newGateway(ctx, p.config, logger); err != nil {
		return errors.Join(err, echoListener.Close())
	}
	if err := p.echo.ackAt(localURL(p.gateway.api)); err != nil {
		p.gateway.abandon(ctx)
		return errors.Join(err, echoListener.Close())
	}
	p.echoServer = &listener{echoListener, &http.Server{Handler: p.echo, ReadHeaderTimeout: echoHeaderTimeout}}
	return p.run(ctx)
}

// startBroker runs the embedded broker.
func startBroker(opts devOptions, dir string, logger *slog.Logger) (*devbroker.Broker, error) {
	broker, err := devbroker.Start(devbroker.Options{
		Listen: opts.brokerListen, DataDir: filepath.Join(dir, "broker"), Ephemeral: opts.ephemeral, Logger: logger,
	})
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, listenError(err, opts.brokerListen, "broker-listen")
	case errors.Is(err, devbroker.ErrDataInUse):
		return nil, fmt.Errorf("%w; choose another with --data-dir", err)
	}
	return broker, err
}

// run runs the gateway and what is around it. The echo receiver ends after the
// gateway, which drains into it.
func (p *playground) run(ctx context.Context) error {
	parts, ctx := errgroup.WithContext(ctx)
	echoCtx, stopEcho := context.WithCancel(context.WithoutCancel(ctx))
	topicThere := make(chan struct{})

	parts.Go(func() error {
		defer stopEcho()
		return p.gateway.run(ctx)
	})
	parts.Go(func() error {
		defer p.echo.wait()
		return p.echoServer.serve(echoCtx)
	})
	parts.Go(func() error {
		return sample(ctx, p.config.kafka(p.logger), p.logger, func() { close(topicThere) })
	})
	parts.Go(func() error {
		if p.awaitReady(ctx) {
			p.greet()
		}
		select {
		case <-topicThere:
			return p.registerDemo(ctx)
		case <-ctx.Done():
			return nil
		}
	})
	return parts.Wait()
}

// awaitReady waits until the gateway is ready, or long enough; it returns false when
// ctx has ended.
func (p *playground) awaitReady(ctx context.Context) bool {
	patience := time.After(bannerPatience)
	for p.gateway.manager.Ready() != nil {
		select {
		case <-ctx.Done():
			return false
		case <-patience:
			return true
		case <-time.After(readyPoll):
		}
	}
	return true
}

// greet prints where everything is, and a command to go on with.
func (p *playground) greet() {
	api, echo := localURL(p.gateway.api), localURL(p.echoServer)
	kafka, data := strings.Join(p.config.Kafka.Brokers, ","), "data in "+p.config.DataDir
	if p.opts.ephemeral {
		data = "nothing is kept"
	}
	if p.brokers == embedded {
		data = "embedded, for any Kafka client; " + data
	}
	token := p.config.API.AdminToken
	fmt.Fprintf(p.out, `kpush dev is running. Ctrl-C ends it.

  API          %s
  admin token  %s
  Kafka        %s  (%s)
  metrics      %s/metrics
  receiver     %s  (prints below what it is sent, and acks it)

The topic %q gets a record a second, which the webhook %q pushes to the receiver.
Register one of your own:

  curl -sS -X PUT %s/v1/webhooks/my-first -H 'Authorization: Bearer %s' -H 'Content-Type: application/json' -d '{"url":"%s/my-first","topics":["%s"]}'

`, api, token, kafka, data, localURL(p.gateway.management), echo, demoTopic, demoWebhook, api, token, echo, demoTopic)
}
