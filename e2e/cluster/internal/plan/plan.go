// Package plan lays out a cluster: names and addresses. All addresses lie inside the cluster's
// own network namespaces, so every cluster of a machine uses the same ones.
package plan

import (
	"fmt"
	"net"
)

// Addresses that do not depend on the node.
const (
	ControlPlaneIP = "10.200.0.1"
	FabricPrefix   = 24
	PodNet         = "10.201.0.0/16"
	ServiceNet     = "10.202.0.0/16"
	ServiceIP      = "10.202.0.1"
	DNSIP          = "10.202.0.10"
	APIPort        = 6443
	// ProxyHealthPort is where a node's kube-proxy says on its loopback that its rules are in place.
	ProxyHealthPort = 10256
	// MaxNodes is how many nodes the addresses suffice for.
	MaxNodes = 200
)

// Node is one node; its number counts from 1.
type Node int

// Nodes returns nodes 1 to count.
func Nodes(count int) []Node {
	nodes := make([]Node, count)
	for i := range nodes {
		nodes[i] = Node(i + 1)
	}
	return nodes
}

// Name is the node's name in Kubernetes and its host name.
func (n Node) Name() string { return fmt.Sprintf("node%d", int(n)) }

// IP is the node's address on the wire between nodes and control plane.
func (n Node) IP() net.IP { return net.IPv4(10, 200, 0, byte(10+int(n))).To4() }

// PodCIDR is the network of the node's pods.
func (n Node) PodCIDR() *net.IPNet {
	return &net.IPNet{IP: net.IPv4(10, 201, byte(n), 0).To4(), Mask: net.CIDRMask(24, 32)}
}

// Port is the name of the bridge port the node is wired to, in the control plane's namespace.
func (n Node) Port() string { return fmt.Sprintf("port%d", int(n)) }
