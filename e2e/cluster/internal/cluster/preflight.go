package cluster

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// needed are the programs of this machine that nodes use, with the Debian packages they are in.
var needed = []struct{ program, pkg string }{
	{"containerd", "containerd"},
	{"containerd-shim-runc-v2", "containerd"},
	{"ctr", "containerd"},
	{"runc", "runc"},
	{"nft", "nftables"},
	{"iptables", "iptables"},
	{"conntrack", "conntrack"},
}

// networkPlugins are where distributions put the container network plugins, and those used.
var (
	networkPluginDirs = []string{"/usr/lib/cni", "/opt/cni/bin", "/usr/libexec/cni"}
	networkPlugins    = []string{"bridge", "host-local", "loopback", "portmap"}
)

const networkPluginsPackage = "containernetworking-plugins"

// preflight returns the directory of the network plugins, or an error that names everything
// this machine lacks for nodes and how to get it.
func preflight(stateDir string) (pluginDir string, err error) {
	if os.Geteuid() != 0 {
		return "", errors.New("nodes need namespaces and mounts, which only root may make: run this as root")
	}
	var programs, packages []string
	lack := func(program, pkg string) {
		programs = append(programs, program)
		if !slices.Contains(packages, pkg) {
			packages = append(packages, pkg)
		}
	}
	for _, need := range needed {
		if _, err := exec.LookPath(need.program); err != nil {
			lack(need.program, need.pkg)
		}
	}
	pluginDir, found := findPlugins(networkPluginDirs)
	if !found {
		lack("the network plugins "+strings.Join(networkPlugins, ", "), networkPluginsPackage)
	}
	if len(packages) > 0 {
		return "", fmt.Errorf("this machine lacks %s; on Debian: apt-get install -y %s",
			strings.Join(programs, ", "), strings.Join(packages, " "))
	}
	return pluginDir, checkStateFilesystem(filepath.Dir(stateDir))
}

func findPlugins(dirs []string) (string, bool) {
	for _, dir := range dirs {
		complete := !slices.ContainsFunc(networkPlugins, func(plugin string) bool {
			_, err := os.Stat(filepath.Join(dir, plugin))
			return err != nil
		})
		if complete {
			return dir, true
		}
	}
	return "", false
}

// checkStateFilesystem refuses a file system that cannot carry the layers of containers.
func checkStateFilesystem(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make the state directory: %w", err)
	}
	var stat unix.Statfs_t
	if err := unix.Statfs(dir, &stat); err != nil {
		return fmt.Errorf("look at the file system of %s: %w", dir, err)
	}
	if stat.Type == unix.OVERLAYFS_SUPER_MAGIC {
		return fmt.Errorf("%s is on an overlay file system, which containers cannot be stacked on; "+
			"set NSM_CLUSTER_STATE to a directory on another one", dir)
	}
	return nil
}
