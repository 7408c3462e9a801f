package cluster

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"nsm-e2e-cluster/internal/build"
	"nsm-e2e-cluster/internal/component"
	"nsm-e2e-cluster/internal/namespace"
	"nsm-e2e-cluster/internal/plan"
	"nsm-e2e-cluster/internal/state"
)

const (
	killSignal = unix.SIGKILL
	stopSignal = unix.SIGTERM
	// nodeTimeout is how long a change to one node may take.
	nodeTimeout = time.Minute
)

// change calls do with what starts processes of a cluster that is up.
func (c *Cluster) change(ctx context.Context, do func(*spawner) error) error {
	return c.locked(ctx, func() error {
		record, err := c.Record()
		if err != nil {
			return err
		}
		return do(&spawner{cluster: c, record: record, died: func(error) {}})
	})
}

// changeNode is change with a node that exists and a limit of time.
func (c *Cluster) changeNode(ctx context.Context, node plan.Node, do func(context.Context, *spawner) error) error {
	return c.change(ctx, func(s *spawner) error {
		if node < 1 || int(node) > s.record.Spec.Nodes {
			return fmt.Errorf("cluster %s has no node %d: it has %d", c.name, node, s.record.Spec.Nodes)
		}
		ctx, cancel := within(ctx, nodeTimeout, "changing "+node.Name())
		defer cancel()
		return do(ctx, s)
	})
}

// StopProgram ends a program of a node, politely or not. Pods survive it.
func (c *Cluster) StopProgram(ctx context.Context, node plan.Node, name string, kill bool) error {
	return c.changeNode(ctx, node, func(ctx context.Context, s *spawner) error {
		signal := stopSignal
		if kill {
			signal = killSignal
		}
		return c.end(ctx, s.record, processOf(node, name), signal)
	})
}

// StartProgram starts a program of a node that was stopped; one that runs is left alone.
func (c *Cluster) StartProgram(ctx context.Context, node plan.Node, name string) error {
	return c.changeNode(ctx, node, func(ctx context.Context, s *spawner) error {
		if running, ok := s.record.Process(processOf(node, name)); ok && running.Alive() {
			return nil
		}
		groups, err := c.groups()
		if err != nil {
			return err
		}
		if err := s.programOfNode(groups, node, name); err != nil || name != component.Containerd {
			return err
		}
		return awaitRuntime(ctx, s.record, node)
	})
}

// KillNode cuts a node's power: everything on it ends at once, and only its disk stays.
func (c *Cluster) KillNode(ctx context.Context, node plan.Node) error {
	return c.changeNode(ctx, node, func(ctx context.Context, s *spawner) error {
		if err := c.end(ctx, s.record, processOf(node, nodeInit), killSignal); err != nil {
			return err
		}
		groups, err := c.groups()
		if err != nil {
			return err
		}
		// A kubelet that finds the control groups of pods that are gone is busy with them for long.
		return groups.Remove(ctx, node.Name())
	})
}

// BootNode gives a node without power some again.
func (c *Cluster) BootNode(ctx context.Context, node plan.Node) error {
	return c.changeNode(ctx, node, func(ctx context.Context, s *spawner) error {
		if first, ok := s.record.Process(processOf(node, nodeInit)); ok && first.Alive() {
			return nil
		}
		plugins, err := preflight(string(c.dir))
		if err != nil {
			return err
		}
		groups, err := c.groups()
		if err == nil {
			err = groups.Create(systemGroup(node))
		}
		if err != nil {
			return err
		}
		b := &bringUp{spawner: s, artifacts: build.Artifacts{Programs: s.record.Spec.Programs}, plugins: plugins}
		if err := b.startNode(ctx, groups, node); err != nil {
			return err
		}
		return b.joinNode(groups, node)
	})
}

// end ends the process called name; one that has ended already is an error, for then something
// else than the caller did it.
func (c *Cluster) end(ctx context.Context, record *state.Cluster, name string, signal unix.Signal) error {
	identity, ok := record.Process(name)
	if !ok {
		return fmt.Errorf("cluster %s runs no %s", c.name, name)
	}
	if !identity.Alive() {
		return errors.New(name + " is not running")
	}
	return identity.End(ctx, signal)
}

// programOfControlPlane starts a program where the control plane is.
func (s *spawner) programOfControlPlane(program component.Program) error {
	if s.record.Spec.ControlPlaneOnly {
		return s.program(program.Name, namespace.Place{}, program)
	}
	groups, err := s.cluster.groups()
	if err != nil {
		return err
	}
	seat, err := groups.Seat(controlPlaneGroup)
	if err != nil {
		return err
	}
	defer seat.Close()
	first, _ := s.record.Process(controlPlaneInit)
	return s.program(program.Name, namespace.Place{Init: first.PID, Seat: seat}, program)
}
