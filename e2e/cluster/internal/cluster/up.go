package cluster

import (
	"context"
	"errors"
	"fmt"
	"time"

	"nsm-e2e-cluster/internal/build"
	"nsm-e2e-cluster/internal/state"
)

// Up brings the cluster up as options say. When it is up and well that is all; what is left of
// one that is not is cleared away first. When Up fails nothing keeps running, but the logs stay.
func (c *Cluster) Up(ctx context.Context, options Options) error {
	if err := options.Validate(); err != nil {
		return err
	}
	artifacts, err := build.All(ctx, c.report)
	if err != nil {
		return err
	}
	return c.locked(ctx, func() error { return c.up(ctx, options, artifacts) })
}

func (c *Cluster) up(ctx context.Context, options Options, artifacts build.Artifacts) error {
	var plugins string
	if !options.ControlPlaneOnly {
		var err error
		if plugins, err = preflight(string(c.dir)); err != nil {
			return err
		}
	}
	spec := options.spec(artifacts.Programs)
	running, err := c.alreadyUp(ctx, spec, options.Port)
	if err != nil {
		return err
	}
	if running != nil {
		c.report.Step("cluster %s is up already", c.name)
		return c.loadImages(ctx, running, options.Images)
	}
	if err := c.clear(ctx); err != nil {
		return err
	}
	port := options.Port
	if port == 0 && c.name == DefaultName && !options.ControlPlaneOnly {
		port = DefaultPort
	}
	ports, err := choosePorts(port, options.ControlPlaneOnly)
	if err != nil {
		return err
	}
	record, err := state.New(c.dir, spec, ports)
	if err != nil {
		return err
	}
	if err := c.start(ctx, record, options, artifacts, plugins); err != nil {
		return c.giveUp(record, err)
	}
	c.report.Step("cluster %s is up: Kubernetes %s on https://127.0.0.1:%d", c.name, artifacts.Version, ports.API)
	return nil
}

// alreadyUp returns the record of the cluster when it is up and well, nil when it has to be
// started, and an error when it is up but not as wanted: somebody may be using it.
func (c *Cluster) alreadyUp(ctx context.Context, wanted state.Spec, port int) (*state.Cluster, error) {
	status, record := c.inspect(ctx)
	switch status.State {
	case StateDown:
		return nil, nil
	case StateDegraded:
		c.report.Step("cluster %s is half up (%s): starting afresh", c.name, status.Problems[0])
		return nil, nil
	}
	if difference := conflict(record, wanted, port); difference != "" {
		return nil, fmt.Errorf("cluster %s is up, but not as asked for: %s; take it down first with `cluster down --name %s`",
			c.name, difference, c.name)
	}
	return record, nil
}

func (c *Cluster) start(ctx context.Context, record *state.Cluster, options Options, artifacts build.Artifacts, plugins string) error {
	ctx, cancel := within(ctx, options.Timeout, "starting the cluster")
	defer cancel()
	ctx, abort := context.WithCancelCause(ctx)
	defer abort(nil)
	b := &bringUp{
		spawner:   &spawner{cluster: c, record: record, died: abort},
		artifacts: artifacts,
		plugins:   plugins,
		images:    append([]string{artifacts.Pause}, options.Images...),
	}
	run := b.withNodes
	if options.ControlPlaneOnly {
		run = b.alone
	}
	if err := run(ctx); err != nil {
		// What went wrong first is why ctx ended; the rest are consequences.
		if cause := context.Cause(ctx); cause != nil && !errors.Is(err, cause) {
			return cause
		}
		return err
	}
	return record.SetPhase(state.Up)
}

// giveUp ends whatever was started, and keeps the logs.
func (c *Cluster) giveUp(record *state.Cluster, reason error) error {
	c.report.Step("cluster %s did not come up: ending what was started", c.name)
	ctx, cancel := within(context.Background(), time.Minute, "ending what was started")
	defer cancel()
	if err := errors.Join(c.endProcesses(ctx), c.removeGroups(ctx), record.SetPhase(state.Failed)); err != nil {
		reason = errors.Join(reason, err)
	}
	return fmt.Errorf("cluster %s did not come up (all logs are in %s): %w", c.name, c.dir.Logs(), reason)
}
