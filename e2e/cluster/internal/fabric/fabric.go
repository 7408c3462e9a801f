// Package fabric wires the nodes of a cluster: a bridge in the control plane's network
// namespace, a cable to each node, and routes to pods and services. Nothing is ever made in the
// machine's own network namespace.
package fabric

import (
	"errors"
	"fmt"
	"net"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"nsm-e2e-cluster/internal/plan"
)

const (
	bridge   = "nodes"
	nodeLink = "eth0"
)

// Namespace is a network namespace that links are made in.
type Namespace struct {
	handle *netlink.Handle
	fd     netns.NsHandle
}

// Open opens the network namespace of the process pid. Close it after use.
func Open(pid int) (*Namespace, error) {
	fd, err := netns.GetFromPid(pid)
	if err != nil {
		return nil, fmt.Errorf("open the network namespace of process %d: %w", pid, err)
	}
	handle, err := netlink.NewHandleAt(fd)
	if err != nil {
		fd.Close()
		return nil, fmt.Errorf("reach the network namespace of process %d: %w", pid, err)
	}
	return &Namespace{handle: handle, fd: fd}, nil
}

// Close closes the handle; the namespace stays as it is.
func (n *Namespace) Close() error {
	n.handle.Close()
	return n.fd.Close()
}

// MakeBridge makes what the nodes are plugged into and gives the control plane its address.
func (n *Namespace) MakeBridge() error {
	if err := n.up("lo"); err != nil {
		return err
	}
	attributes := netlink.NewLinkAttrs()
	attributes.Name = bridge
	if err := n.handle.LinkAdd(&netlink.Bridge{LinkAttrs: attributes}); err != nil {
		return fmt.Errorf("make the bridge: %w", err)
	}
	if err := n.address(bridge, net.ParseIP(plan.ControlPlaneIP)); err != nil {
		return err
	}
	return n.up(bridge)
}

// Plug lays a cable from the control plane's bridge to the node whose namespace is inside, and
// gives the node its address and routes to the pods of all the others. There is no default
// route: what is not the cluster's cannot be reached.
func (n *Namespace) Plug(inside *Namespace, node plan.Node, all []plan.Node) error {
	master, err := n.handle.LinkByName(bridge)
	if err != nil {
		return fmt.Errorf("find the bridge: %w", err)
	}
	if err := n.unplug(node); err != nil {
		return err
	}
	attributes := netlink.NewLinkAttrs()
	attributes.Name, attributes.MasterIndex = node.Port(), master.Attrs().Index
	cable := &netlink.Veth{LinkAttrs: attributes, PeerName: nodeLink, PeerNamespace: netlink.NsFd(inside.fd)}
	if err := n.handle.LinkAdd(cable); err != nil {
		return fmt.Errorf("lay the cable to %s: %w", node.Name(), err)
	}
	if err := n.up(node.Port()); err != nil {
		return err
	}
	for _, link := range []string{"lo", nodeLink} {
		if err := inside.up(link); err != nil {
			return fmt.Errorf("%s: %w", node.Name(), err)
		}
	}
	if err := inside.address(nodeLink, node.IP()); err != nil {
		return fmt.Errorf("%s: %w", node.Name(), err)
	}
	if err := n.route(bridge, node.PodCIDR(), node.IP()); err != nil {
		return err
	}
	for _, other := range all {
		if other == node {
			continue
		}
		if err := inside.route(nodeLink, other.PodCIDR(), other.IP()); err != nil {
			return fmt.Errorf("%s: %w", node.Name(), err)
		}
	}
	return inside.routeServices(node)
}

// unplug removes the cable to a node that lost its power. The kernel does so too, but takes its
// time, so that both may happen at once.
func (n *Namespace) unplug(node plan.Node) error {
	port, err := n.handle.LinkByName(node.Port())
	if err == nil {
		err = n.handle.LinkDel(port)
	}
	if errors.As(err, new(netlink.LinkNotFoundError)) || errors.Is(err, unix.ENODEV) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove the old cable to %s: %w", node.Name(), err)
	}
	return nil
}

// routeServices sends packets to services out by the node's link. They never get there, for
// kube-proxy sends them elsewhere; but a packet without a route is not even asked about.
func (n *Namespace) routeServices(node plan.Node) error {
	_, services, err := net.ParseCIDR(plan.ServiceNet)
	if err != nil {
		return fmt.Errorf("service network: %w", err)
	}
	if err := n.route(nodeLink, services, nil); err != nil {
		return fmt.Errorf("%s: %w", node.Name(), err)
	}
	return nil
}

func (n *Namespace) up(name string) error {
	link, err := n.handle.LinkByName(name)
	if err == nil {
		err = n.handle.LinkSetUp(link)
	}
	if err != nil {
		return fmt.Errorf("set link %s up: %w", name, err)
	}
	return nil
}

func (n *Namespace) address(name string, ip net.IP) error {
	network := &net.IPNet{IP: ip.To4(), Mask: net.CIDRMask(plan.FabricPrefix, 32)}
	link, err := n.handle.LinkByName(name)
	if err == nil {
		err = n.handle.AddrAdd(link, &netlink.Addr{IPNet: network})
	}
	if err != nil {
		return fmt.Errorf("give link %s the address %s: %w", name, network, err)
	}
	return nil
}

// route sends packets for network out by the link called name, to gateway when there is one. A
// route of the same network is replaced.
func (n *Namespace) route(name string, network *net.IPNet, gateway net.IP) error {
	link, err := n.handle.LinkByName(name)
	if err == nil {
		route := &netlink.Route{LinkIndex: link.Attrs().Index, Dst: network, Gw: gateway}
		if gateway == nil {
			route.Scope = netlink.SCOPE_LINK
		}
		err = n.handle.RouteReplace(route)
	}
	if err != nil {
		return fmt.Errorf("route %s by link %s: %w", network, name, err)
	}
	return nil
}
