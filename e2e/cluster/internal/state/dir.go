package state

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
)

// Dir is the state directory of one cluster.
type Dir string

// RootVariable is the environment variable that moves the state of all clusters.
const RootVariable = "NSM_CLUSTER_STATE"

const defaultRoot = "/var/tmp/nsm-e2e"

// names end up in paths, control groups and environment variables.
var validName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$`)

// DirOf returns the state directory of the cluster called name. It makes nothing.
func DirOf(name string) (Dir, error) {
	if !validName.MatchString(name) {
		return "", fmt.Errorf("cluster name %q: use up to 32 small letters, digits and inner hyphens", name)
	}
	root := os.Getenv(RootVariable)
	if root == "" {
		root = defaultRoot
	}
	root, err := filepath.Abs(root)
	if err != nil {
		return "", fmt.Errorf("state directory: %w", err)
	}
	return Dir(filepath.Join(root, name)), nil
}

// Lock is the file that commands changing the cluster lock. It lies beside the directory, which
// they remove.
func (d Dir) Lock() string { return string(d) + ".lock" }

// Kubeconfig is the administrator's way to the API server from this machine.
func (d Dir) Kubeconfig() string { return filepath.Join(string(d), "kubeconfig") }

// Keys is the directory of the control plane's keys.
func (d Dir) Keys() string { return filepath.Join(string(d), "keys") }

// Config is the directory of the control plane's configuration.
func (d Dir) Config() string { return filepath.Join(string(d), "config") }

// Etcd is etcd's data directory.
func (d Dir) Etcd() string { return filepath.Join(string(d), "etcd") }

// Logs is the directory of all logs.
func (d Dir) Logs() string { return filepath.Join(string(d), "log") }

// Log is the log of the process called name.
func (d Dir) Log(name string) string {
	return filepath.Join(d.Logs(), filepath.FromSlash(name)+".log")
}

// Node is the directory of one node: "etc" is laid over the node's /etc, "var" is its /var, and
// "root" is where its root file system is assembled.
func (d Dir) Node(name string) string { return filepath.Join(string(d), "nodes", name) }
