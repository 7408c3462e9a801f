package pki

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
)

// Names of the users that Kubernetes' own roles are bound to.
const (
	AdminGroup        = "system:masters"
	ControllerManager = "system:kube-controller-manager"
	Scheduler         = "system:kube-scheduler"
	Proxy             = "system:kube-proxy"
	nodeUserPrefix    = "system:node:"
	nodeGroup         = "system:nodes"
)

// Node is a node a Set has certificates for.
type Node struct {
	Name string
	IP   net.IP
}

// Set is every key of a cluster.
type Set struct {
	Root, FrontProxy        *Authority
	Tokens                  Pair
	APIServer, APIToKubelet Pair
	APIToAggregated         Pair
	Admin                   Pair
	ControllerManager       Pair
	Scheduler, Proxy        Pair
	Kubelet, KubeletServing map[string]Pair
}

// NewSet makes the keys of a cluster whose API server answers at apiIPs and that has nodes.
func NewSet(apiIPs []net.IP, nodes []Node) (*Set, error) {
	set := &Set{Kubelet: map[string]Pair{}, KubeletServing: map[string]Pair{}}
	var err error
	if set.Root, err = NewAuthority("nsm-e2e"); err != nil {
		return nil, err
	}
	if set.FrontProxy, err = NewAuthority("nsm-e2e-front-proxy"); err != nil {
		return nil, err
	}
	if set.Tokens, err = NewSigningKey(); err != nil {
		return nil, err
	}
	const service = "kubernetes"
	for _, wanted := range []struct {
		into   *Pair
		signer *Authority
		Subject
	}{
		{&set.APIServer, set.Root, Subject{User: "kube-apiserver", IPs: apiIPs, DNS: []string{
			"localhost", service, service + ".default", service + ".default.svc", service + ".default.svc.cluster.local",
		}}},
		{&set.APIToKubelet, set.Root, Subject{User: "kube-apiserver-kubelet-client", Groups: []string{AdminGroup}}},
		{&set.APIToAggregated, set.FrontProxy, Subject{User: "front-proxy-client"}},
		{&set.Admin, set.Root, Subject{User: "admin", Groups: []string{AdminGroup}}},
		{&set.ControllerManager, set.Root, Subject{User: ControllerManager}},
		{&set.Scheduler, set.Root, Subject{User: Scheduler}},
		{&set.Proxy, set.Root, Subject{User: Proxy}},
	} {
		if *wanted.into, err = wanted.signer.Issue(wanted.Subject); err != nil {
			return nil, err
		}
	}
	for _, node := range nodes {
		user := nodeUserPrefix + node.Name
		if set.Kubelet[node.Name], err = set.Root.Issue(Subject{User: user, Groups: []string{nodeGroup}}); err != nil {
			return nil, err
		}
		serving := Subject{User: user, Groups: []string{nodeGroup}, DNS: []string{node.Name}, IPs: []net.IP{node.IP}}
		if set.KubeletServing[node.Name], err = set.Root.Issue(serving); err != nil {
			return nil, err
		}
	}
	return set, nil
}

// Write puts the pairs the control plane reads into dir, each as NAME.crt and NAME.key.
func (s *Set) Write(dir string) error {
	for name, pair := range map[string]Pair{
		"ca":                       s.Root.Pair,
		"front-proxy-ca":           s.FrontProxy.Pair,
		"front-proxy-client":       s.APIToAggregated,
		"service-account":          s.Tokens,
		"apiserver":                s.APIServer,
		"apiserver-kubelet-client": s.APIToKubelet,
		"admin":                    s.Admin,
	} {
		if err := pair.Write(dir, name); err != nil {
			return err
		}
	}
	return nil
}

// Write puts the pair into dir as NAME.crt and NAME.key.
func (p Pair) Write(dir, name string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make the key directory: %w", err)
	}
	if err := os.WriteFile(filepath.Join(dir, name+".crt"), p.Cert, 0o644); err != nil {
		return fmt.Errorf("write the certificate of %s: %w", name, err)
	}
	if err := os.WriteFile(filepath.Join(dir, name+".key"), p.Key, 0o600); err != nil {
		return fmt.Errorf("write the key of %s: %w", name, err)
	}
	return nil
}
