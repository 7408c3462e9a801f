// Package namespace starts programs in other Linux namespaces, control groups included.
//
// A thread is moved, starts the program, and is thrown away with the goroutine that was locked
// to it. So the program is this process's own child, with the number by which this process
// knows it, wherever it lives.
package namespace

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"

	"nsm-e2e-cluster/internal/cgroup"
)

// The main thread must never be one that is moved: it is what /proc/self speaks of, and it
// cannot be thrown away.
func init() { runtime.LockOSThread() }

// kinds are the namespaces of a node, in the order in which a thread can enter them: behind
// the mount namespace's door the files of this machine are out of sight.
var kinds = []struct {
	name string
	flag int
}{
	{"net", unix.CLONE_NEWNET},
	{"uts", unix.CLONE_NEWUTS},
	{"ipc", unix.CLONE_NEWIPC},
	{"pid", unix.CLONE_NEWPID},
	{"mnt", unix.CLONE_NEWNS},
}

// Fresh are the flags that start a process in new namespaces of all kinds.
const Fresh = syscall.CLONE_NEWNET | syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC | syscall.CLONE_NEWPID | syscall.CLONE_NEWNS

// Place is where a program is started. The zero Place is where this process is.
type Place struct {
	// Init is the process whose namespaces to enter; none when 0.
	Init int
	// Seat is the control group to join; none when nil.
	Seat *cgroup.Seat
}

// Start starts the command that build returns. Build runs inside the place, so that it finds
// programs and opens files there.
func (p Place) Start(build func() (*exec.Cmd, error)) (*exec.Cmd, error) {
	var command *exec.Cmd
	err := p.do(func() error {
		var err error
		if command, err = build(); err != nil {
			return err
		}
		if p.Seat != nil {
			if fd, ok := p.Seat.Descriptor(); ok {
				if command.SysProcAttr == nil {
					command.SysProcAttr = &syscall.SysProcAttr{}
				}
				command.SysProcAttr.UseCgroupFD, command.SysProcAttr.CgroupFD = true, fd
			}
		}
		return command.Start()
	})
	if err != nil {
		return nil, err
	}
	return command, nil
}

// do calls what on a thread that has moved to the place, and throws the thread away.
func (p Place) do(what func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		err := p.enter()
		if err == nil {
			err = what()
		}
		result <- err
	}()
	return <-result
}

func (p Place) enter() error {
	if p.Seat != nil {
		if err := p.Seat.TakeThread(); err != nil {
			return err
		}
	}
	if p.Init == 0 {
		return nil
	}
	doors := make([]*os.File, len(kinds))
	for i, kind := range kinds {
		door, err := os.Open(fmt.Sprintf("/proc/%d/ns/%s", p.Init, kind.name))
		if errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("enter the namespaces of process %d: it has ended", p.Init)
		}
		if err != nil {
			return fmt.Errorf("enter the namespaces of process %d: %w", p.Init, err)
		}
		defer door.Close()
		doors[i] = door
	}
	// A thread that shares its root directory with others may not change it.
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("leave the shared root directory: %w", err)
	}
	for i, kind := range kinds {
		if err := unix.Setns(int(doors[i].Fd()), kind.flag); err != nil {
			return fmt.Errorf("enter the %s namespace of process %d: %w", kind.name, p.Init, err)
		}
	}
	return nil
}
