package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"nsm-e2e-cluster/internal/build"
	"nsm-e2e-cluster/internal/cluster"
)

func newBuild(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "build",
		Short: "Build Kubernetes, etcd and the pause image, unless they are built",
		Long: `Build everything a cluster runs and keep it in the cache. What is there already, made from the
same sources by the same Go, is not built again. "up" does this by itself.`,
		Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			made, err := build.All(command.Context(), a.report)
			if err != nil {
				return err
			}
			fmt.Fprintf(command.OutOrStdout(), "programs: %s\npause image: %s\n", made.Programs, made.Pause)
			return nil
		},
	}
}

func newUp(a *app) *cobra.Command {
	var options cluster.Options
	command := &cobra.Command{
		Use:   "up",
		Short: "Start the cluster, unless it is up",
		Long: `Start the cluster and wait until all nodes are Ready. When it is up already, only load the given
images. When it is half up, because something died or an earlier command was interrupted, clear it
away and start afresh. When it is up but differs from what is asked for, fail: somebody uses it.

The kubeconfig's path is printed on the standard output, progress on the standard error.`,
		Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			c, err := a.cluster()
			if err != nil {
				return err
			}
			if err := c.Up(command.Context(), options); err != nil {
				return err
			}
			fmt.Fprintln(command.OutOrStdout(), c.Kubeconfig())
			return nil
		},
	}
	flags := command.Flags()
	flags.IntVar(&options.Nodes, "nodes", 2, "number of nodes")
	flags.IntVar(&options.Port, "port", 0, fmt.Sprintf(
		"the API server's port on 127.0.0.1; 0 is %d for the cluster %q with nodes, and any free one for others",
		cluster.DefaultPort, cluster.DefaultName))
	flags.StringArrayVar(&options.Images, "image", nil, "OCI or Docker archive to load on every node; may be repeated")
	flags.StringVar(&options.AuditLog, "audit-log", "", "file the API server appends its audit log to")
	flags.StringVar(&options.AuditPolicy, "audit-policy", "", "what to log; by default every request with its metadata")
	flags.BoolVar(&options.ControlPlaneOnly, "control-plane-only", false,
		"start only etcd and the API server, on this machine's loopback; needs no root")
	flags.BoolVar(&options.ControllerManager, "with-controller-manager", false,
		"with --control-plane-only: also start the controllers")
	flags.DurationVar(&options.Timeout, "timeout", 2*time.Minute, "give up after this time, not counting the build")
	return command
}

func newDown(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "down",
		Short: "Remove the cluster and make sure that nothing is left",
		Long: `Remove the cluster's processes, namespaces, control groups and state, however far it had come.
Fail, and name what is left, when something could not be removed.`,
		Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			c, err := a.cluster()
			if err != nil {
				return err
			}
			return c.Down(command.Context())
		},
	}
}

func newStatus(a *app) *cobra.Command {
	var output string
	command := &cobra.Command{
		Use:   "status",
		Short: "Say whether the cluster is up",
		Long:  `Say whether the cluster is up (exit code 0), down (3) or degraded (4: partly there, or not well).`,
		Args:  cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			c, err := a.cluster()
			if err != nil {
				return err
			}
			status := c.Status(command.Context())
			switch output {
			case "json":
				encoder := json.NewEncoder(command.OutOrStdout())
				encoder.SetIndent("", "  ")
				err = encoder.Encode(status)
			case "text":
				err = printStatus(command.OutOrStdout(), status)
			default:
				err = fmt.Errorf("output format %q: use text or json", output)
			}
			if err != nil {
				return err
			}
			switch status.State {
			case cluster.StateDown:
				return exitCode(exitDown)
			case cluster.StateDegraded:
				return exitCode(exitDegraded)
			}
			return nil
		},
	}
	command.Flags().StringVarP(&output, "output", "o", "text", "text or json")
	return command
}

func printStatus(out io.Writer, status cluster.Status) error {
	table := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	for _, line := range [][2]string{
		{"cluster", status.Name},
		{"state", string(status.State)},
		{"version", status.Version},
		{"server", status.Server},
		{"kubeconfig", status.Kubeconfig},
		{"logs", status.Logs},
		{"problems", strings.Join(status.Problems, "\n\t")},
	} {
		if line[1] != "" {
			fmt.Fprintf(table, "%s\t%s\n", line[0], line[1])
		}
	}
	for _, node := range status.Nodes {
		condition := "Ready"
		if !node.Ready {
			condition = "not ready: " + node.Message
		}
		fmt.Fprintf(table, "%s\t%s, %s, kubelet %s, %s\n", node.Name, condition, node.IP, node.Version, node.Runtime)
	}
	return table.Flush()
}
