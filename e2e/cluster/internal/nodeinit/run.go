// Package nodeinit is the first process of a namespace: it furnishes the place, says that it is
// ready, and then holds it open, reaping orphans. When it dies, everything in the place does.
package nodeinit

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"
)

// Spec tells a first process what to make of its fresh namespaces.
type Spec struct {
	Hostname string `json:"hostname"`
	// Root is the file system to assemble; the control plane keeps the machine's.
	Root *Root `json:"root,omitempty"`
	// Sysctls are settings of the network namespace, by path below /proc/sys. Those the kernel
	// does not have are left out.
	Sysctls map[string]string `json:"sysctls,omitempty"`
}

// ready is what a first process answers when the place is furnished; anything else is what went wrong.
const ready = "ready\n"

// Main is the first process: it reads its Spec from in, answers on out, and stays. It returns
// only when the place could not be furnished.
func Main(in io.Reader, out io.WriteCloser) error {
	// To the kernel a first process has no default actions, but a Go program has.
	signal.Ignore(unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGQUIT, unix.SIGPIPE)
	orphans := make(chan os.Signal, 1)
	signal.Notify(orphans, unix.SIGCHLD)
	if err := furnish(in); err != nil {
		_, writing := fmt.Fprintln(out, err)
		return errors.Join(err, writing)
	}
	if _, err := io.WriteString(out, ready); err != nil {
		return fmt.Errorf("say that the namespaces are ready: %w", err)
	}
	if err := out.Close(); err != nil {
		return fmt.Errorf("say that the namespaces are ready: %w", err)
	}
	for {
		reap()
		<-orphans
	}
}

// AwaitReady reads a first process's answer.
func AwaitReady(in io.Reader) error {
	answer, err := io.ReadAll(in)
	if err != nil {
		return fmt.Errorf("wait for its first process: %w", err)
	}
	switch string(answer) {
	case ready:
		return nil
	case "":
		return errors.New("its first process ended without a word")
	default:
		return errors.New(string(answer[:len(answer)-1]))
	}
}

func furnish(in io.Reader) error {
	unix.Umask(0o022)
	var spec Spec
	if err := json.NewDecoder(in).Decode(&spec); err != nil {
		return fmt.Errorf("read what to do: %w", err)
	}
	if err := unix.Sethostname([]byte(spec.Hostname)); err != nil {
		return fmt.Errorf("set the host name %s: %w", spec.Hostname, err)
	}
	// Nothing mounted from here on may reach the machine.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make the mounts private: %w", err)
	}
	if spec.Root != nil {
		if err := spec.Root.assemble(spec.Hostname); err != nil {
			return err
		}
	} else if err := mount("proc", "/proc", "proc", 0, ""); err != nil {
		return err
	}
	for path, value := range spec.Sysctls {
		err := os.WriteFile("/proc/sys/"+path, []byte(value), 0)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("set %s to %s: %w", path, value, err)
		}
	}
	return nil
}

// reap collects every child that has ended; one signal may stand for several.
func reap() {
	for {
		pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || pid <= 0 {
			return
		}
	}
}
