package component

import (
	"slices"
	"strings"
	"testing"
)

var sample = ControlPlane{
	Programs: "/programs", Keys: "/keys", Config: "/config", Data: "/data",
	APIPort: 6443, EtcdPort: 2379, PeerPort: 2380,
}

func TestAControlPlaneAloneStaysOnTheLoopback(t *testing.T) {
	alone := sample
	alone.Alone = true
	for _, program := range []Program{alone.Etcd(), alone.APIServer(), alone.ControllerManager()} {
		for _, argument := range program.Args {
			if strings.Contains(argument, "0.0.0.0") || strings.Contains(argument, "10.200.") {
				t.Errorf("%s %s", program.Name, argument)
			}
		}
	}
	if !slices.Contains(alone.APIServer().Args, "--bind-address=127.0.0.1") {
		t.Error("the API server listens elsewhere")
	}
}

func TestAnAuditLogIsKeptOnlyWhenAskedFor(t *testing.T) {
	audited := func(c ControlPlane) bool {
		return slices.ContainsFunc(c.APIServer().Args, func(argument string) bool {
			return strings.HasPrefix(argument, "--audit-")
		})
	}
	with := sample
	with.AuditLog, with.AuditPolicy = "/audit.log", "/policy.yaml"
	if audited(sample) || !audited(with) {
		t.Errorf("without: %v, with: %v", audited(sample), audited(with))
	}
}

func TestAProgramsArgumentsAlwaysComeInTheSameOrder(t *testing.T) {
	first := sample.APIServer().Args
	for range 10 {
		if again := sample.APIServer().Args; !slices.Equal(first, again) {
			t.Fatalf("%v\n%v", first, again)
		}
	}
}

func TestOnlyKnownProgramsRunOnNodes(t *testing.T) {
	for _, name := range []string{Containerd, Kubelet, Proxy} {
		if program, ok := OnNode(1, name); !ok || program.Name != name {
			t.Errorf("%s: %+v", name, program)
		}
	}
	if _, ok := OnNode(1, Etcd); ok {
		t.Error("etcd runs on nodes")
	}
}
