package cli

import (
	"context"
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	"nsm-e2e-cluster/internal/cluster"
	"nsm-e2e-cluster/internal/plan"
)

func newNode(a *app) *cobra.Command {
	node := &cobra.Command{
		Use:   "node",
		Short: "Break and mend nodes",
		Long:  `Break and mend nodes, to see what happens then. "up" mends everything by starting afresh.`,
	}
	var kill bool
	stop := a.onNode("stop N PROGRAM", "Stop containerd, kubelet or kube-proxy of a node; its pods stay", 2,
		func(ctx context.Context, c *cluster.Cluster, node plan.Node, args []string) error {
			return c.StopProgram(ctx, node, args[0], kill)
		})
	stop.Flags().BoolVar(&kill, "kill", false, "kill it instead of asking it to stop")
	node.AddCommand(stop,
		a.onNode("start N PROGRAM", "Start a program that was stopped", 2,
			func(ctx context.Context, c *cluster.Cluster, node plan.Node, args []string) error {
				return c.StartProgram(ctx, node, args[0])
			}),
		a.onNode("kill N", "Cut a node's power: only its disk stays", 1,
			func(ctx context.Context, c *cluster.Cluster, node plan.Node, _ []string) error {
				return c.KillNode(ctx, node)
			}),
		a.onNode("boot N", "Give a node its power back", 1,
			func(ctx context.Context, c *cluster.Cluster, node plan.Node, _ []string) error {
				return c.BootNode(ctx, node)
			}),
	)
	return node
}

func (a *app) onNode(use, short string, args int, do func(context.Context, *cluster.Cluster, plan.Node, []string) error) *cobra.Command {
	return &cobra.Command{
		Use:   use,
		Short: short,
		Args:  cobra.ExactArgs(args),
		RunE: func(command *cobra.Command, args []string) error {
			c, err := a.cluster()
			if err != nil {
				return err
			}
			number, err := strconv.Atoi(args[0])
			if err != nil {
				return fmt.Errorf("node %q: use a number", args[0])
			}
			return do(command.Context(), c, plan.Node(number), args[1:])
		},
	}
}

func newAPI(a *app) *cobra.Command {
	api := &cobra.Command{Use: "api", Short: "Break and mend the API server"}
	api.AddCommand(&cobra.Command{
		Use:   "restart",
		Short: "Kill the API server, start it again and wait until it is ready",
		Args:  cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			c, err := a.cluster()
			if err != nil {
				return err
			}
			return c.RestartAPI(command.Context())
		},
	})
	return api
}
