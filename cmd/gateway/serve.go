package main

import (
	"context"
	"log/slog"

	"github.com/spf13/cobra"
)

func serveCommand(environ []string) *cobra.Command {
	var insecureNoAuth bool
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run the gateway against a Kafka cluster",
		Long: "Run the gateway against a Kafka cluster until SIGINT or SIGTERM.\n\n" +
			"Every setting may come from a YAML file (--config), from the environment\n" +
			"(KPUSH_KAFKA_BROKERS, ...) or from a flag; later ones win.",
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := loadConfig(defaultConfig(), environ, cmd.Flags())
			if err != nil {
				return usageError{err}
			}
			c.API.InsecureNoAuth = insecureNoAuth
			if err := c.requireSecrets(); err != nil {
				return usageError{err}
			}
			logger := newLogger(c.Log, cmd.ErrOrStderr())
			if insecureNoAuth {
				logger.Warn("--insecure-no-auth: whoever reaches the API may do everything")
			}
			return serve(cmd.Context(), c, logger)
		},
	}
	addFlags(cmd.Flags(), defaultConfig())
	cmd.Flags().BoolVar(&insecureNoAuth, "insecure-no-auth", false, "run the API without authentication")
	return cmd
}

func serve(ctx context.Context, c Config, logger *slog.Logger) error {
	g, err := newGateway(ctx, c, logger)
	if err != nil {
		return err
	}
	return g.run(ctx)
}
