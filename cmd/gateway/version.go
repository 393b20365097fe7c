package main

import (
	"fmt"

	"github.com/confluentinc/confluent-kafka-go/v2/kafka"
	"github.com/spf13/cobra"

	"github.com/kpush/kpush/internal/version"
)

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Tell which build this is",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			build := version.Get()
			_, librdkafka := kafka.LibraryVersion()
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "kpush %s\ncommit %s\n%s\nlibrdkafka %s\n",
				build.Version, build.Commit, build.Go, librdkafka)
			return err
		},
	}
}
