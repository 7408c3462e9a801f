package cluster

import (
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"nsm-e2e-cluster/internal/api"
	"nsm-e2e-cluster/internal/progress"
	"nsm-e2e-cluster/internal/state"
)

func TestOptionsThatContradictEachOtherAreRefused(t *testing.T) {
	for name, options := range map[string]Options{
		"no nodes":                       {},
		"too many nodes":                 {Nodes: 1000},
		"images without nodes":           {ControlPlaneOnly: true, Images: []string{"a.tar"}},
		"a second controller manager":    {Nodes: 2, ControllerManager: true},
		"an audit policy without a log":  {Nodes: 2, AuditPolicy: "policy.yaml"},
		"an impossible port":             {Nodes: 2, Port: 70000},
		"an image that is not there":     {Nodes: 2, Images: []string{"/absent.tar"}},
		"an audit policy that is absent": {Nodes: 2, AuditLog: "log", AuditPolicy: "/absent.yaml"},
	} {
		if err := options.Validate(); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestPathsAreMadeAbsoluteSoThatTheyHoldInsideTheCluster(t *testing.T) {
	t.Chdir(t.TempDir())
	if err := os.WriteFile("operator.tar", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	options := Options{Nodes: 2, Images: []string{"operator.tar"}, AuditLog: "audit.log"}
	if err := options.Validate(); err != nil {
		t.Fatal(err)
	}
	if !filepath.IsAbs(options.Images[0]) || !filepath.IsAbs(options.AuditLog) || options.AuditPolicy != "" {
		t.Errorf("%+v", options)
	}
}

func TestAClusterThatIsUpOtherwiseThanAskedForIsAConflict(t *testing.T) {
	is := &state.Cluster{Spec: state.Spec{Nodes: 2, Programs: "/a"}, Ports: state.Ports{API: 16443}}
	for _, same := range []int{0, 16443} {
		if difference := conflict(is, is.Spec, same); difference != "" {
			t.Errorf("port %d: %s", same, difference)
		}
	}
	for name, wanted := range map[string]state.Spec{
		"nodes":    {Nodes: 3, Programs: "/a"},
		"kind":     {ControlPlaneOnly: true, Programs: "/a"},
		"audit":    {Nodes: 2, Programs: "/a", AuditLog: "/log"},
		"programs": {Nodes: 2, Programs: "/b"},
	} {
		if conflict(is, wanted, 0) == "" {
			t.Errorf("other %s: no conflict", name)
		}
	}
	if conflict(is, is.Spec, 16444) == "" {
		t.Error("another port: no conflict")
	}
}

func TestChosenPortsAreFreeAndDistinct(t *testing.T) {
	ports, err := choosePorts(0, true)
	if err != nil {
		t.Fatal(err)
	}
	if ports.API == ports.EtcdClient || ports.API == ports.EtcdPeer || ports.EtcdClient == ports.EtcdPeer {
		t.Errorf("%+v", ports)
	}
}

func TestAPortInUseIsNamedWithWhatToDo(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	_, err = choosePorts(listener.Addr().(*net.TCPAddr).Port, false)
	if err == nil || !strings.Contains(err.Error(), "--port") {
		t.Errorf("error %v", err)
	}
}

func TestTheNodeThatIsMissingOrNotReadyIsNamed(t *testing.T) {
	ready := api.Node{Name: "node1", Ready: true}
	for want, nodes := range map[string][]api.Node{
		"node2 has not registered": {ready},
		"no network":               {ready, {Name: "node2", Message: "no network"}},
	} {
		if err := missingNode(nodes, 2); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
	if err := missingNode([]api.Node{{Name: "node2", Ready: true}, ready}, 2); err != nil {
		t.Error(err)
	}
}

func TestNetworkPluginsAreTakenFromAPlaceThatHasThemAll(t *testing.T) {
	some, all := t.TempDir(), t.TempDir()
	for i, plugin := range networkPlugins {
		dirs := []string{all}
		if i > 0 {
			dirs = append(dirs, some)
		}
		for _, dir := range dirs {
			if err := os.WriteFile(filepath.Join(dir, plugin), nil, 0o755); err != nil {
				t.Fatal(err)
			}
		}
	}
	if dir, ok := findPlugins([]string{some, all}); !ok || dir != all {
		t.Errorf("took %s, found: %v", dir, ok)
	}
	if dir, ok := findPlugins([]string{some}); ok {
		t.Errorf("took %s", dir)
	}
}

func TestAClusterThatNeverWasIsDownAndLeavesNoTraceOfBeingAskedFor(t *testing.T) {
	t.Setenv(state.RootVariable, filepath.Join(t.TempDir(), "state"))
	c, err := Open("absent", progress.New(io.Discard))
	if err != nil {
		t.Fatal(err)
	}
	if status := c.Status(t.Context()); status.State != StateDown {
		t.Errorf("status %+v", status)
	}
	if err := c.Down(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := c.Record(); err == nil || !strings.Contains(err.Error(), "cluster up --name absent") {
		t.Errorf("error %v does not say what to do", err)
	}
}

func TestRemainsWithoutARecordAreSeenAndCleared(t *testing.T) {
	t.Setenv(state.RootVariable, t.TempDir())
	c, err := Open("remains", progress.New(io.Discard))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(c.dir.Logs(), 0o755); err != nil {
		t.Fatal(err)
	}
	if status := c.Status(t.Context()); status.State != StateDegraded {
		t.Errorf("status %+v", status)
	}
	if err := c.Down(t.Context()); err != nil {
		t.Fatal(err)
	}
	if status := c.Status(t.Context()); status.State != StateDown {
		t.Errorf("status %+v", status)
	}
}
