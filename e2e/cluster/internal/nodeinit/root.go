package nodeinit

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Root is a node's root file system: the machine's programs, read-only, and everything else its
// own. So whatever a pod finds or makes by a host path is private to its node.
type Root struct {
	// Dir is an empty directory to assemble it on.
	Dir string `json:"dir"`
	// Var is the directory that becomes /var, the only part that is on a disk.
	Var string `json:"var"`
	// Etc is laid over the node's /etc.
	Etc string `json:"etc"`
	// Binds are directories of the machine by where the node sees them, read-only.
	Binds map[string]string `json:"binds"`
}

// taken are the files of the machine's /etc that programs in /usr want; a missing one is fine.
var taken = []string{
	"passwd", "group", "nsswitch.conf", "protocols", "services",
	"alternatives", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "iproute2",
}

// shown are settings of the whole machine as the kubelet wants to find them. It would otherwise
// write them; so it sees files with these values in their place.
var shown = map[string]string{
	"vm/overcommit_memory":      "1",
	"vm/panic_on_oom":           "0",
	"kernel/panic":              "10",
	"kernel/panic_on_oops":      "1",
	"kernel/keys/root_maxkeys":  "1000000",
	"kernel/keys/root_maxbytes": "25000000",
}

// assemble builds the root file system and makes it this process's own.
func (r *Root) assemble(hostname string) error {
	if err := mount("tmpfs", r.Dir, "tmpfs", 0, "mode=755"); err != nil {
		return err
	}
	for _, step := range []func() error{
		r.makeDirectories, r.bindDirectories, r.mountKernel,
		func() error { return r.fillEtc(hostname) }, r.hideSettings, r.enter,
	} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

func (r *Root) at(path string) string { return filepath.Join(r.Dir, path) }

func (r *Root) makeDirectories() error {
	for _, path := range []string{
		"etc", "proc", "sys", "dev", "run", "var", "usr", "root", "home", "mnt", "srv", "tmp", oldRoot,
	} {
		if err := os.MkdirAll(r.at(path), 0o755); err != nil {
			return fmt.Errorf("make /%s: %w", path, err)
		}
	}
	if err := os.Chmod(r.at("tmp"), 0o777|os.ModeSticky); err != nil {
		return fmt.Errorf("open /tmp to everybody: %w", err)
	}
	for _, path := range []string{"lib/kubelet", "lib/containerd", "log/pods", "log/containers"} {
		if err := os.MkdirAll(filepath.Join(r.Var, path), 0o755); err != nil {
			return fmt.Errorf("make /var/%s: %w", path, err)
		}
	}
	if err := os.Symlink("/run", filepath.Join(r.Var, "run")); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("link /var/run: %w", err)
	}
	return nil
}

func (r *Root) bindDirectories() error {
	if err := bind(r.Var, r.at("var"), 0); err != nil {
		return err
	}
	if err := bind("/usr", r.at("usr"), unix.MS_RDONLY); err != nil {
		return err
	}
	for _, path := range []string{"bin", "sbin", "lib", "lib32", "lib64", "libx32"} {
		target, err := os.Readlink("/" + path)
		switch {
		case err == nil:
			err = os.Symlink(target, r.at(path))
		case errors.Is(err, fs.ErrNotExist):
			err = nil
		default: // a directory of its own
			err = bind("/"+path, r.at(path), unix.MS_RDONLY)
		}
		if err != nil {
			return fmt.Errorf("take over /%s: %w", path, err)
		}
	}
	for inside, outside := range r.Binds {
		if err := bind(outside, r.at(inside), unix.MS_RDONLY); err != nil {
			return err
		}
	}
	return nil
}

// mountKernel gives the node the file systems that show the kernel. Those of a network namespace
// show the namespace they were mounted in.
func (r *Root) mountKernel() error {
	for _, m := range []struct {
		source, target, kind string
		flags                uintptr
		data                 string
	}{
		{"/dev", "dev", "", unix.MS_BIND | unix.MS_REC, ""},
		{"tmpfs", "dev/shm", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777"},
		{"sysfs", "sys", "sysfs", 0, ""},
		{"/sys/fs/cgroup", "sys/fs/cgroup", "", unix.MS_BIND | unix.MS_REC, ""},
		{"proc", "proc", "proc", 0, ""},
	} {
		if err := mount(m.source, r.at(m.target), m.kind, m.flags, m.data); err != nil {
			return err
		}
	}
	return nil
}

func (r *Root) fillEtc(hostname string) error {
	for _, name := range taken {
		if err := copyAny(filepath.Join("/etc", name), r.at("etc/"+name)); err != nil {
			return fmt.Errorf("take over /etc/%s: %w", name, err)
		}
	}
	id := make([]byte, 16)
	if _, err := rand.Read(id); err != nil {
		return fmt.Errorf("make up a machine id: %w", err)
	}
	for name, content := range map[string]string{
		"hostname":    hostname + "\n",
		"hosts":       "127.0.0.1 localhost\n",
		"resolv.conf": "", // the machine's name servers are out of the node's reach
		"machine-id":  hex.EncodeToString(id) + "\n",
	} {
		if err := os.WriteFile(r.at("etc/"+name), []byte(content), 0o644); err != nil {
			return fmt.Errorf("write /etc/%s: %w", name, err)
		}
	}
	if err := os.CopyFS(r.at("etc"), os.DirFS(r.Etc)); err != nil {
		return fmt.Errorf("lay the configuration over /etc: %w", err)
	}
	return nil
}

func (r *Root) hideSettings() error {
	dir := r.at("run/sysctl")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return fmt.Errorf("make /run/sysctl: %w", err)
	}
	for path, value := range shown {
		file := filepath.Join(dir, strings.ReplaceAll(path, "/", "."))
		if err := os.WriteFile(file, []byte(value+"\n"), 0o644); err != nil {
			return fmt.Errorf("write the value shown for %s: %w", path, err)
		}
		if err := mount(file, r.at("proc/sys/"+path), "", unix.MS_BIND, ""); err != nil {
			return err
		}
	}
	return nil
}

// oldRoot is where the machine's root file system is for the moment between having and leaving it.
const oldRoot = ".machine"

func (r *Root) enter() error {
	if err := unix.PivotRoot(r.Dir, r.at(oldRoot)); err != nil {
		return fmt.Errorf("enter the root file system: %w", err)
	}
	if err := os.Chdir("/"); err != nil {
		return fmt.Errorf("enter the root file system: %w", err)
	}
	if err := unix.Unmount("/"+oldRoot, unix.MNT_DETACH); err != nil {
		return fmt.Errorf("leave the machine's root file system: %w", err)
	}
	if err := os.Remove("/" + oldRoot); err != nil {
		return fmt.Errorf("leave the machine's root file system: %w", err)
	}
	// Mounts made on the node must reach its pods, and those of some pods the node.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""); err != nil {
		return fmt.Errorf("let mounts of the node reach its pods: %w", err)
	}
	return nil
}
