package cluster

import (
	"context"
	"fmt"
	"time"

	"nsm-e2e-cluster/internal/api"
	"nsm-e2e-cluster/internal/component"
	"nsm-e2e-cluster/internal/namespace"
	"nsm-e2e-cluster/internal/poll"
)

// alone starts a control plane without nodes, right on this machine: it needs no namespace and
// no root, and a webhook at a URL of the loopback is in its reach.
func (b *bringUp) alone(ctx context.Context) error {
	if _, err := b.writeKeys(nil, fmt.Sprintf("https://127.0.0.1:%d", b.record.Ports.API)); err != nil {
		return err
	}
	here, controlPlane := namespace.Place{}, b.controlPlane()
	for _, program := range []component.Program{controlPlane.Etcd(), controlPlane.APIServer()} {
		if err := b.program(program.Name, here, program); err != nil {
			return err
		}
	}
	b.cluster.report.Step("started etcd and the API server")
	client, err := api.New(b.record.Ports.API, b.cluster.dir.Keys())
	if err != nil {
		return err
	}
	defer client.Close()
	if err := poll.Until(ctx, "API server to be ready", often, client.Ready); err != nil {
		return err
	}
	if !b.record.Spec.ControllerManager {
		return nil
	}
	b.cluster.report.Step("the API server is ready")
	if err := b.program(component.ControllerManager, here, controlPlane.ControllerManager()); err != nil {
		return err
	}
	return poll.Until(ctx, "controllers to make the default service account", 2*often, func(ctx context.Context) error {
		return client.ServiceAccount(ctx, "default")
	})
}

// RestartAPI kills the API server and starts it again, and waits until it is ready. The kill is
// on purpose: asked politely it first waits for its watches to end, for up to a minute.
func (c *Cluster) RestartAPI(ctx context.Context) error {
	const limit = time.Minute
	return c.change(ctx, func(s *spawner) error {
		ctx, cancel := within(ctx, limit, "restarting the API server")
		defer cancel()
		if err := c.end(ctx, s.record, component.APIServer, killSignal); err != nil {
			return err
		}
		if err := s.programOfControlPlane(s.controlPlane().APIServer()); err != nil {
			return err
		}
		client, err := api.New(s.record.Ports.API, c.dir.Keys())
		if err != nil {
			return err
		}
		defer client.Close()
		if err := poll.Until(ctx, "API server to be ready", often, client.Ready); err != nil {
			return err
		}
		c.report.Step("the API server is ready again")
		return nil
	})
}
