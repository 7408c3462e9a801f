package cli

import (
	"fmt"
	"path/filepath"
	"strconv"

	"github.com/spf13/cobra"

	"nsm-e2e-cluster/internal/plan"
)

func newLoadImage(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "load-image FILE...",
		Short: "Load OCI or Docker image archives on every node",
		Long: `Load image archives on every node, side by side. Give images names with a host part, such as
e2e.test/operator:1, and tags other than "latest": then Kubernetes never tries to pull them. An image
of the same name is replaced; only pods made afterwards run it.`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(command *cobra.Command, args []string) error {
			c, err := a.cluster()
			if err != nil {
				return err
			}
			for i, path := range args {
				if args[i], err = filepath.Abs(path); err != nil {
					return fmt.Errorf("path %s: %w", path, err)
				}
			}
			return c.LoadImages(command.Context(), args)
		},
	}
}

func newKubeconfig(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "kubeconfig",
		Short: "Print the path of the kubeconfig",
		Args:  cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			c, err := a.cluster()
			if err != nil {
				return err
			}
			if _, err := c.Record(); err != nil {
				return err
			}
			fmt.Fprintln(command.OutOrStdout(), c.Kubeconfig())
			return nil
		},
	}
}

func newKubectl(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "kubectl ...",
		Short: "Run kubectl against the cluster",
		Long: `Run kubectl against the cluster. Everything behind the word is kubectl's; name another cluster
before it: cluster --name api kubectl get crd.`,
		DisableFlagParsing: true,
		RunE: func(_ *cobra.Command, args []string) error {
			c, err := a.cluster()
			if err != nil {
				return err
			}
			return c.Kubectl(args)
		},
	}
}

func newExec(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     "exec NODE -- COMMAND...",
		Short:   "Run a command in a node's namespaces; node 0 is the control plane",
		Example: "  cluster exec 1 -- nft list table ip kube-proxy\n  cluster exec 0 -- ip -brief link",
		Args:    cobra.MinimumNArgs(2),
		RunE: func(command *cobra.Command, args []string) error {
			c, err := a.cluster()
			if err != nil {
				return err
			}
			number, err := strconv.Atoi(args[0])
			if err != nil || number < 0 {
				return fmt.Errorf("node %q: use a number, 0 for the control plane", args[0])
			}
			code, err := c.Exec(command.Context(), plan.Node(number), args[1:])
			if err != nil {
				return err
			}
			if code != 0 {
				return exitCode(code)
			}
			return nil
		},
	}
}
