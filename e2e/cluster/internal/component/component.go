// Package component knows how each program of a cluster is called: its name, its arguments, and
// nothing of where it runs.
package component

import (
	"fmt"
	"path/filepath"
	"slices"
)

// Names of the programs, as processes are recorded and logs are called by.
const (
	Etcd              = "etcd"
	APIServer         = "kube-apiserver"
	ControllerManager = "kube-controller-manager"
	Scheduler         = "kube-scheduler"
	Containerd        = "containerd"
	Kubelet           = "kubelet"
	Proxy             = "kube-proxy"
)

// SearchPath is where programs of a cluster look for others.
const SearchPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Program is one program to run.
type Program struct {
	Name string
	// Path is the executable, as seen from where it runs.
	Path string
	Args []string
}

// flags turns names and values into sorted --name=value arguments.
func flags(values map[string]string) []string {
	args := make([]string, 0, len(values))
	for name, value := range values {
		args = append(args, fmt.Sprintf("--%s=%s", name, value))
	}
	slices.Sort(args)
	return args
}

// key and cert name the halves of a pair in a directory of keys.
func key(dir, name string) string  { return filepath.Join(dir, name+".key") }
func cert(dir, name string) string { return filepath.Join(dir, name+".crt") }
