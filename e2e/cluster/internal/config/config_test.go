package config

import (
	"encoding/json"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

func filesOfNode2(t *testing.T) map[string][]byte {
	t.Helper()
	files, err := Node{Node: 2, Cgroup: "nsm-e2e-x", PauseImage: "e2e.test/pause:1", MaxOpenFiles: 20000}.Files()
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func TestAKubeletAnswersAtItsNodesAddressAndKeepsToItsOwnCgroups(t *testing.T) {
	var kubelet struct {
		Kind         string `json:"kind"`
		Address      string `json:"address"`
		CgroupRoot   string `json:"cgroupRoot"`
		MaxOpenFiles uint64 `json:"maxOpenFiles"`
	}
	if err := yaml.Unmarshal(filesOfNode2(t)["kubernetes/kubelet.yaml"], &kubelet); err != nil {
		t.Fatal(err)
	}
	if kubelet.Kind != "KubeletConfiguration" || kubelet.Address != "10.200.0.12" ||
		kubelet.CgroupRoot != "/nsm-e2e-x/node2" || kubelet.MaxOpenFiles != 20000 {
		t.Errorf("%+v", kubelet)
	}
}

func TestAProxyIsNamedAsItsNodeAndLeavesTheMachinesSettingsAlone(t *testing.T) {
	var proxy struct {
		Hostname  string         `json:"hostnameOverride"`
		Mode      string         `json:"mode"`
		Conntrack map[string]any `json:"conntrack"`
	}
	if err := yaml.Unmarshal(filesOfNode2(t)["kubernetes/kube-proxy.yaml"], &proxy); err != nil {
		t.Fatal(err)
	}
	if proxy.Hostname != "node2" || proxy.Mode != "nftables" || proxy.Conntrack["maxPerCore"] != float64(0) {
		t.Errorf("%+v", proxy)
	}
}

func TestPodsGetAddressesOfTheirNodesNetwork(t *testing.T) {
	var network struct {
		Plugins []struct {
			Type string `json:"type"`
			IPAM struct {
				Ranges [][]struct {
					Subnet string `json:"subnet"`
				} `json:"ranges"`
			} `json:"ipam"`
		} `json:"plugins"`
	}
	if err := json.Unmarshal(filesOfNode2(t)["cni/net.d/10-pods.conflist"], &network); err != nil {
		t.Fatal(err)
	}
	if network.Plugins[0].Type != "bridge" || network.Plugins[0].IPAM.Ranges[0][0].Subnet != "10.201.2.0/24" {
		t.Errorf("%+v", network)
	}
}

func TestContainerdStartsPodsFromTheImageTheDriverLoads(t *testing.T) {
	if text := string(filesOfNode2(t)["containerd/config.toml"]); !strings.Contains(text, `sandbox_image = "e2e.test/pause:1"`) {
		t.Error(text)
	}
}

func TestTheDefaultAuditPolicyLogsEveryRequest(t *testing.T) {
	text, err := AuditPolicy()
	if err != nil {
		t.Fatal(err)
	}
	var policy struct {
		Rules []struct {
			Level string `json:"level"`
		} `json:"rules"`
	}
	if err := yaml.Unmarshal(text, &policy); err != nil || len(policy.Rules) != 1 || policy.Rules[0].Level != "Metadata" {
		t.Errorf("%+v, error %v", policy, err)
	}
}
