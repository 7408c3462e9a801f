package component

import "nsm-e2e-cluster/internal/plan"

// NodePrograms is where a node sees the Kubernetes programs.
const NodePrograms = "/opt/kube"

// nodePrograms are what a node runs, by the names they can be started and stopped by.
var nodePrograms = map[string]func(plan.Node) Program{
	Containerd: func(plan.Node) Program {
		return Program{
			Name: Containerd,
			Path: "/usr/bin/containerd",
			Args: flags(map[string]string{"config": "/etc/containerd/config.toml"}),
		}
	},
	Kubelet: func(node plan.Node) Program {
		return Program{
			Name: Kubelet,
			Path: NodePrograms + "/" + Kubelet,
			Args: flags(map[string]string{
				"config":            "/etc/kubernetes/kubelet.yaml",
				"kubeconfig":        "/etc/kubernetes/kubelet.kubeconfig",
				"hostname-override": node.Name(),
				"node-ip":           node.IP().String(),
				"root-dir":          "/var/lib/kubelet",
				"cert-dir":          "/var/lib/kubelet/pki",
				"v":                 "2",
			}),
		}
	},
	Proxy: func(plan.Node) Program {
		return Program{
			Name: Proxy,
			Path: NodePrograms + "/" + Proxy,
			Args: flags(map[string]string{"config": "/etc/kubernetes/kube-proxy.yaml", "v": "2"}),
		}
	},
}

// OnNode returns the program called name as it runs on node.
func OnNode(node plan.Node, name string) (Program, bool) {
	make, ok := nodePrograms[name]
	if !ok {
		return Program{}, false
	}
	return make(node), true
}
