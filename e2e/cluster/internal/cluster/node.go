package cluster

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

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
	"nsm-e2e-cluster/internal/state"
)

// processOf is what a node's process is recorded and logged as.
func processOf(node plan.Node, name string) string { return node.Name() + "/" + name }

const nodeInit = "init"

// maxOpenFiles is how many open files a kubelet gives itself by default.
const maxOpenFiles = 1_000_000

// prepareNode writes a node's configuration and makes its disk.
func (b *bringUp) prepareNode(node plan.Node, keys *pki.Set) error {
	dir := b.cluster.dir.Node(node.Name())
	for _, path := range []string{"root", "var"} {
		if err := os.MkdirAll(filepath.Join(dir, path), 0o755); err != nil {
			return fmt.Errorf("make the directory of %s: %w", node.Name(), err)
		}
	}
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("ask for the limit of open files: %w", err)
	}
	files, err := config.Node{
		Node:         node,
		Cgroup:       b.cluster.cgroup(),
		PauseImage:   build.PauseImage,
		MaxOpenFiles: min(limit.Max, maxOpenFiles),
	}.Files()
	if err != nil {
		return err
	}
	etc := filepath.Join(dir, "etc")
	for path, content := range files {
		path = filepath.Join(etc, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return fmt.Errorf("configure %s: %w", node.Name(), err)
		}
		if err := os.WriteFile(path, content, 0o644); err != nil {
			return fmt.Errorf("configure %s: %w", node.Name(), err)
		}
	}
	kubernetes, server := filepath.Join(etc, "kubernetes"), fmt.Sprintf("https://%s:%d", plan.ControlPlaneIP, plan.APIPort)
	if err := os.WriteFile(filepath.Join(kubernetes, "ca.crt"), keys.Root.Cert, 0o644); err != nil {
		return fmt.Errorf("configure %s: %w", node.Name(), err)
	}
	if err := keys.KubeletServing[node.Name()].Write(kubernetes, component.Kubelet); err != nil {
		return err
	}
	for name, user := range map[string]pki.Pair{component.Kubelet: keys.Kubelet[node.Name()], component.Proxy: keys.Proxy} {
		if err := writeKubeconfig(filepath.Join(kubernetes, name+".kubeconfig"), server, keys.Root, user); err != nil {
			return err
		}
	}
	return nil
}

// startNode starts a prepared node's namespaces, its cable and its container runtime, and loads images.
func (b *bringUp) startNode(ctx context.Context, groups *cgroup.Tree, node plan.Node) error {
	seat, err := groups.Seat(systemGroup(node))
	if err != nil {
		return err
	}
	defer seat.Close()
	dir := b.cluster.dir.Node(node.Name())
	err = b.first(processOf(node, nodeInit), namespace.Place{Seat: seat}, nodeinit.Spec{
		Hostname: node.Name(),
		Root: &nodeinit.Root{
			Dir: filepath.Join(dir, "root"),
			Var: filepath.Join(dir, "var"),
			Etc: filepath.Join(dir, "etc"),
			Binds: map[string]string{
				component.NodePrograms: b.record.Spec.Programs,
				"/opt/cni/bin":         b.plugins,
			},
		},
		Sysctls: map[string]string{"net/ipv4/ip_forward": "1"},
	})
	if err != nil {
		return err
	}
	if err := b.plug(node); err != nil {
		return err
	}
	if err := b.programOfNode(groups, node, component.Containerd); err != nil {
		return err
	}
	if err := awaitRuntime(ctx, b.record, node); err != nil {
		return err
	}
	for _, image := range b.images {
		if err := loadImage(ctx, b.record, node, image); err != nil {
			return err
		}
	}
	return nil
}

func (b *bringUp) plug(node plan.Node) error {
	controlPlane, _ := b.record.Process(controlPlaneInit)
	outside, err := fabric.Open(controlPlane.PID)
	if err != nil {
		return err
	}
	defer outside.Close()
	first, _ := b.record.Process(processOf(node, nodeInit))
	inside, err := fabric.Open(first.PID)
	if err != nil {
		return err
	}
	defer inside.Close()
	return outside.Plug(inside, node, plan.Nodes(b.record.Spec.Nodes))
}

// joinNode starts what makes a machine a node of Kubernetes.
func (s *spawner) joinNode(groups *cgroup.Tree, node plan.Node) error {
	for _, name := range []string{component.Kubelet, component.Proxy} {
		if err := s.programOfNode(groups, node, name); err != nil {
			return err
		}
	}
	return nil
}

// programOfNode starts the program called name on a node whose namespaces exist.
func (s *spawner) programOfNode(groups *cgroup.Tree, node plan.Node, name string) error {
	program, ok := component.OnNode(node, name)
	if !ok {
		return fmt.Errorf("%s is no program of a node: use %s, %s or %s",
			name, component.Containerd, component.Kubelet, component.Proxy)
	}
	first, ok := s.record.Process(processOf(node, nodeInit))
	if !ok || !first.Alive() {
		return fmt.Errorf("start %s: %s has no power; give it some with `cluster node boot %d`", name, node.Name(), node)
	}
	seat, err := groups.Seat(systemGroup(node))
	if err != nil {
		return err
	}
	defer seat.Close()
	return s.program(processOf(node, name), namespace.Place{Init: first.PID, Seat: seat}, program)
}

// awaitRuntime waits until a node's container runtime listens.
func awaitRuntime(ctx context.Context, record *state.Cluster, node plan.Node) error {
	first, _ := record.Process(processOf(node, nodeInit))
	socket := fmt.Sprintf("/proc/%d/root/run/containerd/containerd.sock", first.PID)
	return poll.Until(ctx, "container runtime of "+node.Name()+" to listen", often, func(ctx context.Context) error {
		conn, err := new(net.Dialer).DialContext(ctx, "unix", socket)
		if err != nil {
			return err
		}
		return conn.Close()
	})
}

// awaitNodes waits until pods can be made and run on every node, and services be reached there.
func (c *Cluster) awaitNodes(ctx context.Context, record *state.Cluster) error {
	client, err := api.New(record.Ports.API, c.dir.Keys())
	if err != nil {
		return err
	}
	defer client.Close()
	err = poll.Until(ctx, "nodes to be Ready", 2*often, func(ctx context.Context) error {
		nodes, err := client.Nodes(ctx)
		if err != nil {
			return err
		}
		return missingNode(nodes, record.Spec.Nodes)
	})
	if err != nil {
		return err
	}
	c.report.Step("%d nodes are Ready", record.Spec.Nodes)
	for _, node := range plan.Nodes(record.Spec.Nodes) {
		err := poll.Until(ctx, "services to be reachable on "+node.Name(), often, func(ctx context.Context) error {
			return proxyHealth(ctx, record, node)
		})
		if err != nil {
			return err
		}
	}
	return poll.Until(ctx, "controllers to make the default service account", often, func(ctx context.Context) error {
		return client.ServiceAccount(ctx, "default")
	})
}

// missingNode names the first node that is not there or not ready.
func missingNode(nodes []api.Node, count int) error {
	known := map[string]api.Node{}
	for _, node := range nodes {
		known[node.Name] = node
	}
	for _, wanted := range plan.Nodes(count) {
		node, ok := known[wanted.Name()]
		if !ok {
			return fmt.Errorf("%s has not registered", wanted.Name())
		}
		if !node.Ready {
			return fmt.Errorf("%s is not ready: %s", node.Name, node.Message)
		}
	}
	return nil
}

// proxyHealth asks a node's kube-proxy, on the node's own loopback, whether its rules are in place.
func proxyHealth(ctx context.Context, record *state.Cluster, node plan.Node) error {
	first, _ := record.Process(processOf(node, nodeInit))
	network, err := namespace.OpenNetwork(first.PID)
	if err != nil {
		return err
	}
	defer network.Close()
	client := http.Client{
		Timeout: 2 * time.Second,
		Transport: &http.Transport{
			DisableKeepAlives: true,
			DialContext: func(ctx context.Context, _, address string) (net.Conn, error) {
				return namespace.Dial(ctx, network, address)
			},
		},
	}
	url := fmt.Sprintf("http://127.0.0.1:%d/healthz", plan.ProxyHealthPort)
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return fmt.Errorf("ask kube-proxy: %w", err)
	}
	response, err := client.Do(request)
	if err != nil {
		return fmt.Errorf("ask kube-proxy: %w", err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(io.LimitReader(response.Body, 500))
		return fmt.Errorf("kube-proxy says %s: %s", response.Status, body)
	}
	return nil
}
