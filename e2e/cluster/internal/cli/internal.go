package cli

import (
	"fmt"
	"net"
	"os"

	"github.com/spf13/cobra"

	"nsm-e2e-cluster/internal/cluster"
	"nsm-e2e-cluster/internal/forward"
	"nsm-e2e-cluster/internal/namespace"
	"nsm-e2e-cluster/internal/nodeinit"
)

// newInternal returns the commands by which the driver runs itself as a process that stays.
func newInternal() *cobra.Command {
	internal := &cobra.Command{Use: cluster.InternalCommand, Hidden: true}
	internal.AddCommand(
		&cobra.Command{
			Use:   cluster.InitCommand,
			Short: "Be the first process of fresh namespaces",
			Args:  cobra.NoArgs,
			RunE:  func(*cobra.Command, []string) error { return nodeinit.Main(os.Stdin, os.Stdout) },
		},
		&cobra.Command{
			Use:   cluster.LaunchCommand + " -- PROGRAM...",
			Short: "Start a program and leave it to the first process",
			Args:  cobra.MinimumNArgs(1),
			RunE: func(_ *cobra.Command, args []string) error {
				return namespace.LaunchMain(args, os.Stdin, os.Stdout)
			},
		},
		&cobra.Command{
			Use:   cluster.ForwardCommand + " ADDRESS",
			Short: "Carry connections into a network namespace",
			Args:  cobra.ExactArgs(1),
			RunE: func(_ *cobra.Command, args []string) error {
				listener, err := net.FileListener(os.NewFile(cluster.ForwardListener, "listener"))
				if err != nil {
					return fmt.Errorf("take over the listener: %w", err)
				}
				network := os.NewFile(cluster.ForwardNetwork, "network namespace")
				return forward.Serve(listener, network, args[0])
			},
		},
	)
	return internal
}
