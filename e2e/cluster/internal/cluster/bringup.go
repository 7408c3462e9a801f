package cluster

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"nsm-e2e-cluster/internal/api"
	"nsm-e2e-cluster/internal/build"
	"nsm-e2e-cluster/internal/cgroup"
	"nsm-e2e-cluster/internal/component"
	"nsm-e2e-cluster/internal/config"
	"nsm-e2e-cluster/internal/fabric"
	"nsm-e2e-cluster/internal/namespace"
	"nsm-e2e-cluster/internal/nodeinit"
	"nsm-e2e-cluster/internal/pki"
	"nsm-e2e-cluster/internal/plan"
	"nsm-e2e-cluster/internal/poll"
)

// often is the interval at which things that take moments are looked at.
const often = 50 * time.Millisecond

// bringUp is one attempt to start a cluster.
type bringUp struct {
	*spawner
	artifacts build.Artifacts
	// plugins is the directory of the network plugins.
	plugins string
	images  []string
}

// withNodes starts a control plane and nodes. What takes long runs side by side: the API server
// gets ready while the nodes start their container runtimes and load their images.
func (b *bringUp) withNodes(ctx context.Context) error {
	c, nodes := b.cluster, plan.Nodes(b.record.Spec.Nodes)
	listener, err := listen(b.record.Ports.API)
	if err != nil {
		return err
	}
	keys, err := b.writeKeys(nodes, fmt.Sprintf("https://%s:%d", plan.ControlPlaneIP, plan.APIPort))
	if err != nil {
		listener.Close()
		return err
	}
	groups, err := c.groups()
	if err == nil {
		err = groups.Create(groupsOf(nodes)...)
	}
	if err != nil {
		listener.Close()
		return err
	}
	if err := b.startControlPlane(groups, listener); err != nil {
		return err
	}
	c.report.Step("started etcd and the API server")

	apiReady := make(chan struct{})
	work, joint := errgroup.WithContext(ctx)
	work.Go(func() error {
		client, err := api.New(b.record.Ports.API, c.dir.Keys())
		if err != nil {
			return err
		}
		defer client.Close()
		if err := poll.Until(joint, "API server to be ready", often, client.Ready); err != nil {
			return err
		}
		c.report.Step("the API server is ready")
		close(apiReady)
		return b.startControllers(groups)
	})
	for _, node := range nodes {
		work.Go(func() error {
			if err := b.prepareNode(node, keys); err != nil {
				return err
			}
			if err := b.startNode(joint, groups, node); err != nil {
				return err
			}
			c.report.Step("%s has its container runtime and images", node.Name())
			select {
			case <-apiReady:
			case <-joint.Done():
				return context.Cause(joint)
			}
			return b.joinNode(groups, node)
		})
	}
	if err := work.Wait(); err != nil {
		return err
	}
	return c.awaitNodes(ctx, b.record)
}

func groupsOf(nodes []plan.Node) []string {
	groups := []string{controlPlaneGroup, machineGroup}
	for _, node := range nodes {
		groups = append(groups, systemGroup(node))
	}
	return groups
}

// systemGroup is the control group of a node's own programs; its pods' lie beside it.
func systemGroup(node plan.Node) string { return node.Name() + "/system" }

// writeKeys makes the cluster's keys and the kubeconfigs of the administrator and of the control
// plane's own programs, which reach the API server at the URL server.
func (b *bringUp) writeKeys(nodes []plan.Node, server string) (*pki.Set, error) {
	known := make([]pki.Node, len(nodes))
	for i, node := range nodes {
		known[i] = pki.Node{Name: node.Name(), IP: node.IP()}
	}
	keys, err := pki.NewSet([]net.IP{
		net.IPv4(127, 0, 0, 1), net.ParseIP(plan.ControlPlaneIP), net.ParseIP(plan.ServiceIP),
	}, known)
	if err != nil {
		return nil, err
	}
	dir := b.cluster.dir
	if err := keys.Write(dir.Keys()); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir.Config(), 0o755); err != nil {
		return nil, fmt.Errorf("make the configuration directory: %w", err)
	}
	controlPlane := b.controlPlane()
	for _, file := range []struct {
		path, server string
		user         pki.Pair
	}{
		{dir.Kubeconfig(), fmt.Sprintf("https://127.0.0.1:%d", b.record.Ports.API), keys.Admin},
		{controlPlane.Kubeconfig(component.ControllerManager), server, keys.ControllerManager},
		{controlPlane.Kubeconfig(component.Scheduler), server, keys.Scheduler},
	} {
		if err := writeKubeconfig(file.path, file.server, keys.Root, file.user); err != nil {
			return nil, err
		}
	}
	if b.record.Spec.AuditLog != "" && b.record.Spec.AuditPolicy == "" {
		policy, err := config.AuditPolicy()
		if err != nil {
			return nil, err
		}
		if err := os.WriteFile(controlPlane.AuditPolicy, policy, 0o644); err != nil {
			return nil, fmt.Errorf("write the audit policy: %w", err)
		}
	}
	return keys, nil
}

func writeKubeconfig(path, server string, authority *pki.Authority, user pki.Pair) error {
	text, err := pki.Kubeconfig(server, authority, user)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("make the directory of %s: %w", path, err)
	}
	if err := os.WriteFile(path, text, 0o600); err != nil {
		return fmt.Errorf("write a kubeconfig: %w", err)
	}
	return nil
}

// startControlPlane starts the control plane's namespaces, etcd, the API server and the way to
// it from this machine.
func (b *bringUp) startControlPlane(groups *cgroup.Tree, listener *net.TCPListener) error {
	defer listener.Close()
	seat, err := groups.Seat(controlPlaneGroup)
	if err != nil {
		return err
	}
	defer seat.Close()
	err = b.first(controlPlaneInit, namespace.Place{Seat: seat}, nodeinit.Spec{
		Hostname: "control-plane",
		// Frames between nodes are none of this namespace's packet filters' business.
		Sysctls: map[string]string{
			"net/bridge/bridge-nf-call-iptables":  "0",
			"net/bridge/bridge-nf-call-ip6tables": "0",
		},
	})
	if err != nil {
		return err
	}
	first, _ := b.record.Process(controlPlaneInit)
	network, err := fabric.Open(first.PID)
	if err != nil {
		return err
	}
	defer network.Close()
	if err := network.MakeBridge(); err != nil {
		return fmt.Errorf("control plane: %w", err)
	}
	inside, controlPlane := namespace.Place{Init: first.PID, Seat: seat}, b.controlPlane()
	for _, program := range []component.Program{controlPlane.Etcd(), controlPlane.APIServer()} {
		if err := b.program(program.Name, inside, program); err != nil {
			return err
		}
	}
	machine, err := groups.Seat(machineGroup)
	if err != nil {
		return err
	}
	defer machine.Close()
	return b.forward(namespace.Place{Seat: machine}, listener, first.PID)
}

// startControllers starts what gives up when it finds no API server.
func (b *bringUp) startControllers(groups *cgroup.Tree) error {
	seat, err := groups.Seat(controlPlaneGroup)
	if err != nil {
		return err
	}
	defer seat.Close()
	first, _ := b.record.Process(controlPlaneInit)
	inside, controlPlane := namespace.Place{Init: first.PID, Seat: seat}, b.controlPlane()
	for _, program := range []component.Program{controlPlane.ControllerManager(), controlPlane.Scheduler()} {
		if err := b.program(program.Name, inside, program); err != nil {
			return err
		}
	}
	return nil
}

// controlPlane describes the control plane's programs.
func (s *spawner) controlPlane() component.ControlPlane {
	dir, spec := s.cluster.dir, s.record.Spec
	controlPlane := component.ControlPlane{
		Programs: spec.Programs, Keys: dir.Keys(), Config: dir.Config(), Data: dir.Etcd(),
		APIPort: plan.APIPort, EtcdPort: 2379, PeerPort: 2380,
		AuditLog: spec.AuditLog, AuditPolicy: spec.AuditPolicy,
	}
	if spec.ControlPlaneOnly {
		ports := s.record.Ports
		controlPlane.Alone = true
		controlPlane.APIPort, controlPlane.EtcdPort, controlPlane.PeerPort = ports.API, ports.EtcdClient, ports.EtcdPeer
	}
	if spec.AuditLog != "" && spec.AuditPolicy == "" {
		controlPlane.AuditPolicy = filepath.Join(dir.Config(), "audit-policy.yaml")
	}
	return controlPlane
}
