package component

import (
	"fmt"
	"maps"
	"path/filepath"
	"strconv"

	"nsm-e2e-cluster/internal/plan"
)

// ControlPlane is what the programs of a control plane depend on.
type ControlPlane struct {
	// Programs, Keys, Config and Data are directories: executables, keys and certificates,
	// kubeconfigs, and etcd's data.
	Programs, Keys, Config, Data string
	// APIPort, EtcdPort and PeerPort are the ports on the control plane's loopback.
	APIPort, EtcdPort, PeerPort int
	// Alone says that there are no nodes, so that only the loopback matters.
	Alone bool
	// AuditLog and AuditPolicy are files, or empty.
	AuditLog, AuditPolicy string
}

func (c ControlPlane) etcdURL() string { return fmt.Sprintf("http://127.0.0.1:%d", c.EtcdPort) }

func (c ControlPlane) program(name string, arguments map[string]string) Program {
	return Program{Name: name, Path: filepath.Join(c.Programs, name), Args: flags(arguments)}
}

// Kubeconfig is the file the program called name reaches the API server by.
func (c ControlPlane) Kubeconfig(name string) string {
	return filepath.Join(c.Config, name+".kubeconfig")
}

// Etcd returns the store. It does not wait for the disk: the data is not meant to survive the machine.
func (c ControlPlane) Etcd() Program {
	peer := fmt.Sprintf("http://127.0.0.1:%d", c.PeerPort)
	return c.program(Etcd, map[string]string{
		"name":                        "e2e",
		"data-dir":                    c.Data,
		"listen-client-urls":          c.etcdURL(),
		"advertise-client-urls":       c.etcdURL(),
		"listen-peer-urls":            peer,
		"initial-advertise-peer-urls": peer,
		"initial-cluster":             "e2e=" + peer,
		"quota-backend-bytes":         strconv.Itoa(1 << 30),
		"unsafe-no-fsync":             "true",
		"log-level":                   "warn",
	})
}

// APIServer returns the API server.
func (c ControlPlane) APIServer() Program {
	arguments := map[string]string{
		"etcd-servers":                     c.etcdURL(),
		"secure-port":                      strconv.Itoa(c.APIPort),
		"service-cluster-ip-range":         plan.ServiceNet,
		"allow-privileged":                 "true",
		"authorization-mode":               "Node,RBAC",
		"client-ca-file":                   cert(c.Keys, "ca"),
		"tls-cert-file":                    cert(c.Keys, "apiserver"),
		"tls-private-key-file":             key(c.Keys, "apiserver"),
		"service-account-issuer":           "https://kubernetes.default.svc.cluster.local",
		"service-account-key-file":         cert(c.Keys, "service-account"),
		"service-account-signing-key-file": key(c.Keys, "service-account"),
		"v":                                "1",
	}
	if c.AuditLog != "" {
		arguments["audit-log-path"] = c.AuditLog
		arguments["audit-policy-file"] = c.AuditPolicy
	}
	if c.Alone {
		maps.Copy(arguments, map[string]string{
			"bind-address":             "127.0.0.1",
			"advertise-address":        "127.0.0.1",
			"endpoint-reconciler-type": "none",
		})
		return c.program(APIServer, arguments)
	}
	maps.Copy(arguments, map[string]string{
		"bind-address":                       "0.0.0.0",
		"advertise-address":                  plan.ControlPlaneIP,
		"enable-admission-plugins":           "NodeRestriction",
		"kubelet-client-certificate":         cert(c.Keys, "apiserver-kubelet-client"),
		"kubelet-client-key":                 key(c.Keys, "apiserver-kubelet-client"),
		"kubelet-certificate-authority":      cert(c.Keys, "ca"),
		"kubelet-preferred-address-types":    "InternalIP",
		"requestheader-client-ca-file":       cert(c.Keys, "front-proxy-ca"),
		"requestheader-allowed-names":        "front-proxy-client",
		"requestheader-extra-headers-prefix": "X-Remote-Extra-",
		"requestheader-group-headers":        "X-Remote-Group",
		"requestheader-username-headers":     "X-Remote-User",
		"proxy-client-cert-file":             cert(c.Keys, "front-proxy-client"),
		"proxy-client-key-file":              key(c.Keys, "front-proxy-client"),
		// Services' webhooks are called at their pods: the control plane has no kube-proxy.
		"enable-aggregator-routing":              "true",
		"default-not-ready-toleration-seconds":   "20",
		"default-unreachable-toleration-seconds": "20",
	})
	return c.program(APIServer, arguments)
}

// ControllerManager returns the controllers.
func (c ControlPlane) ControllerManager() Program {
	arguments := map[string]string{
		"kubeconfig":                       c.Kubeconfig(ControllerManager),
		"leader-elect":                     "false",
		"use-service-account-credentials":  "true",
		"service-account-private-key-file": key(c.Keys, "service-account"),
		"root-ca-file":                     cert(c.Keys, "ca"),
		"cluster-signing-cert-file":        cert(c.Keys, "ca"),
		"cluster-signing-key-file":         key(c.Keys, "ca"),
		"allocate-node-cidrs":              "false",
		// At the default rate its first requests alone take five seconds.
		"kube-api-qps":   "200",
		"kube-api-burst": "400",
		// By default it makes a directory on the machine.
		"flex-volume-plugin-dir": filepath.Join(c.Config, "flexvolume"),
	}
	if c.Alone {
		maps.Copy(arguments, map[string]string{
			"secure-port": "0",
			// Nodes are made up by tests and renew their leases seldom, if at all.
			"node-monitor-grace-period": "300s",
		})
		return c.program(ControllerManager, arguments)
	}
	maps.Copy(arguments, map[string]string{
		"bind-address":                 "127.0.0.1",
		"authentication-kubeconfig":    c.Kubeconfig(ControllerManager),
		"authorization-kubeconfig":     c.Kubeconfig(ControllerManager),
		"client-ca-file":               cert(c.Keys, "ca"),
		"requestheader-client-ca-file": cert(c.Keys, "front-proxy-ca"),
		"cluster-cidr":                 plan.PodNet,
		"service-cluster-ip-range":     plan.ServiceNet,
		"node-monitor-grace-period":    "20s",
		"node-monitor-period":          "2s",
	})
	return c.program(ControllerManager, arguments)
}

// Scheduler returns the scheduler.
func (c ControlPlane) Scheduler() Program {
	kubeconfig := c.Kubeconfig(Scheduler)
	return c.program(Scheduler, map[string]string{
		"kubeconfig":                kubeconfig,
		"authentication-kubeconfig": kubeconfig,
		"authorization-kubeconfig":  kubeconfig,
		"bind-address":              "127.0.0.1",
		"leader-elect":              "false",
	})
}
