package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"nsm-e2e-cluster/internal/component"
	"nsm-e2e-cluster/internal/namespace"
	"nsm-e2e-cluster/internal/plan"
)

// Exec runs a command in the namespaces of node, or of the control plane for node 0, with this
// process's standard input and outputs. It returns the command's exit code.
func (c *Cluster) Exec(ctx context.Context, node plan.Node, args []string) (int, error) {
	record, err := c.Record()
	if err != nil {
		return 0, err
	}
	name, programs := controlPlaneInit, record.Spec.Programs
	if node > 0 {
		name, programs = processOf(node, nodeInit), component.NodePrograms
	}
	first, ok := record.Process(name)
	switch {
	case record.Spec.ControlPlaneOnly:
		return 0, fmt.Errorf("cluster %s runs right on this machine: there is nothing to enter", c.name)
	case !ok:
		return 0, fmt.Errorf("cluster %s has no node %d: use 1 to %d, or 0 for the control plane", c.name, node, record.Spec.Nodes)
	case !first.Alive():
		return 0, fmt.Errorf("%s has no power; give it some with `cluster node boot %d`", node.Name(), node)
	}
	// The program is looked for inside, by the path that the command will have there.
	path := component.SearchPath + ":" + programs
	if err := os.Setenv("PATH", path); err != nil {
		return 0, fmt.Errorf("set the search path: %w", err)
	}
	command, err := namespace.Place{Init: first.PID}.Start(func() (*exec.Cmd, error) {
		command := exec.CommandContext(ctx, args[0], args[1:]...)
		// A terminal's interrupt reaches the command by itself; it may want to live on.
		command.Cancel = func() error { return command.Process.Signal(syscall.SIGTERM) }
		command.Stdin, command.Stdout, command.Stderr = os.Stdin, os.Stdout, os.Stderr
		command.Dir = "/"
		command.Env = []string{"PATH=" + path, "HOME=/root", "TERM=" + os.Getenv("TERM")}
		return command, nil
	})
	if err != nil {
		return 0, fmt.Errorf("run %s: %w", args[0], err)
	}
	err = command.Wait()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exitCode(exit), nil
	}
	return 0, err
}

// exitCode is what a shell would give: 128 and the number of the signal that ended the command.
func exitCode(exit *exec.ExitError) int {
	if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return 128 + int(status.Signal())
	}
	return exit.ExitCode()
}

// Kubectl becomes kubectl, pointed at the cluster. It returns only when it could not.
func (c *Cluster) Kubectl(args []string) error {
	record, err := c.Record()
	if err != nil {
		return err
	}
	if err := os.Setenv("KUBECONFIG", c.dir.Kubeconfig()); err != nil {
		return fmt.Errorf("run kubectl: %w", err)
	}
	path := filepath.Join(record.Spec.Programs, "kubectl")
	if err := syscall.Exec(path, append([]string{"kubectl"}, args...), os.Environ()); err != nil {
		return fmt.Errorf("run %s: %w; `cluster build` makes it anew", path, err)
	}
	return nil
}
