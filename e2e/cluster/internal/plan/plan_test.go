package plan

import (
	"net"
	"testing"
)

func TestEveryNodesAddressesAreItsOwnAndInTheClustersNetworks(t *testing.T) {
	_, pods, err := net.ParseCIDR(PodNet)
	if err != nil {
		t.Fatal(err)
	}
	taken := map[string]Node{ControlPlaneIP: 0}
	for _, node := range Nodes(MaxNodes) {
		for _, address := range []string{node.IP().String(), node.PodCIDR().String()} {
			if other, ok := taken[address]; ok {
				t.Fatalf("node %d and node %d both have %s", node, other, address)
			}
			taken[address] = node
		}
		if !pods.Contains(node.PodCIDR().IP) {
			t.Errorf("pods of %s at %s lie outside %s", node.Name(), node.PodCIDR(), pods)
		}
	}
}
