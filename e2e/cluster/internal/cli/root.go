// Package cli is the driver's command line.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"nsm-e2e-cluster/internal/cluster"
	"nsm-e2e-cluster/internal/progress"
)

// Exit codes other than those of commands run inside a cluster.
const (
	exitOK       = 0
	exitError    = 1
	exitDown     = 3
	exitDegraded = 4
)

// NameVariable is the environment variable that says which cluster commands mean.
const NameVariable = "NSM_CLUSTER_NAME"

const overview = `cluster runs a real Kubernetes cluster on this machine, without Docker and, once it is built,
without the network: a control plane and nodes in Linux namespaces, with containerd and runc.

  cluster up                          start it (the first time builds Kubernetes: about ten minutes)
  export KUBECONFIG=$(cluster kubeconfig)
  cluster load-image operator.tar     there is no registry: bring the images
  cluster kubectl get pods -A
  cluster exec 1 -- ip route          look around on node1
  cluster down                        remove it, and make sure that nothing is left

  cluster up --control-plane-only --name api --with-controller-manager
                                      an API server alone, ready in seconds; any number side by side

Commands are idempotent: repeat any of them, also after one was interrupted.

Environment:
  NSM_CLUSTER_NAME    the cluster that is meant without --name
  NSM_CLUSTER_STATE   where clusters keep their state (/var/tmp/nsm-e2e)
  NSM_CACHE           where built programs are kept (~/.cache/nsm-e2e)

Exit codes: 0 done, 1 failed; of status: 0 up, 3 down, 4 degraded; of exec and kubectl: the command's own.`

// exitCode is an error that only says how to exit.
type exitCode int

func (e exitCode) Error() string { return fmt.Sprintf("exit with %d", int(e)) }

// app is what the commands share.
type app struct {
	name   string
	report *progress.Reporter
}

func (a *app) cluster() (*cluster.Cluster, error) { return cluster.Open(a.name, a.report) }

// Main runs the command line and returns the exit code.
func Main(args []string, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	root := newRoot(&app{report: progress.New(stderr)})
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	var code exitCode
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &code):
		return int(code)
	default:
		fmt.Fprintln(stderr, "cluster:", err)
		return exitError
	}
}

func newRoot(a *app) *cobra.Command {
	root := &cobra.Command{
		Use:              "cluster",
		Short:            "Run a real Kubernetes cluster on this machine",
		Long:             overview,
		SilenceErrors:    true,
		SilenceUsage:     true,
		TraverseChildren: true, // so that kubectl's flags are kubectl's
	}
	name := os.Getenv(NameVariable)
	if name == "" {
		name = cluster.DefaultName
	}
	root.PersistentFlags().StringVar(&a.name, "name", name, "the cluster that is meant")
	root.CompletionOptions.HiddenDefaultCmd = true
	root.AddCommand(
		newBuild(a), newUp(a), newDown(a), newStatus(a), newLoadImage(a), newKubeconfig(a),
		newKubectl(a), newExec(a), newNode(a), newAPI(a), newInternal(),
	)
	return root
}
