package cgroup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"nsm-e2e-cluster/internal/poll"
)

// Tree is one subtree, of the same name in every hierarchy.
type Tree struct {
	hierarchies []Hierarchy
	name        string
}

// Open returns the tree called name in the hierarchies of this machine. It makes nothing.
func Open(name string) (*Tree, error) {
	hierarchies, err := Discover()
	if err != nil {
		return nil, err
	}
	return &Tree{hierarchies: hierarchies, name: name}, nil
}

// Create makes the groups, which are paths below the tree. Processes may live in groups
// without children only: version 2 demands it.
func (t *Tree) Create(groups ...string) error {
	for _, hierarchy := range t.hierarchies {
		for _, group := range groups {
			if err := hierarchy.create(filepath.Join(t.name, group)); err != nil {
				return err
			}
		}
	}
	return nil
}

// Remove removes the group and all below it from every hierarchy, waiting until the processes
// that were in it are gone. The empty group is the whole tree.
func (t *Tree) Remove(ctx context.Context, group string) error {
	return poll.Until(ctx, "control group "+filepath.Join(t.name, group)+" to become empty", 10*time.Millisecond,
		func(context.Context) error {
			var failures []error
			for _, hierarchy := range t.hierarchies {
				failures = append(failures, removeAll(filepath.Join(hierarchy.Mount, t.name, group)))
			}
			return errors.Join(failures...)
		})
}

// Left returns the directories of the tree that exist.
func (t *Tree) Left() []string {
	var left []string
	for _, hierarchy := range t.hierarchies {
		path := filepath.Join(hierarchy.Mount, t.name)
		if _, err := os.Lstat(path); err == nil {
			left = append(left, path)
		}
	}
	return left
}

// Seat is a group as processes are started in it.
type Seat struct {
	tasks   []string
	unified *os.File
}

// Seat opens group for starting processes in it. Close it afterwards.
func (t *Tree) Seat(group string) (*Seat, error) {
	seat := &Seat{}
	for _, hierarchy := range t.hierarchies {
		path := filepath.Join(hierarchy.Mount, t.name, group)
		if !hierarchy.Unified {
			seat.tasks = append(seat.tasks, filepath.Join(path, "tasks"))
			continue
		}
		directory, err := os.OpenFile(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("open control group: %w", err), seat.Close())
		}
		seat.unified = directory
	}
	return seat, nil
}

// TakeThread moves the calling thread into the group's version 1 hierarchies; what it starts
// then is born there. The thread cannot be used for anything else afterwards.
func (s *Seat) TakeThread() error {
	for _, tasks := range s.tasks {
		if err := os.WriteFile(tasks, []byte("0"), 0); err != nil {
			return fmt.Errorf("enter control group: %w", err)
		}
	}
	return nil
}

// Descriptor returns the group in the version 2 hierarchy, to start a process right in it.
func (s *Seat) Descriptor() (fd int, ok bool) {
	if s.unified == nil {
		return 0, false
	}
	return int(s.unified.Fd()), true
}

// Close closes the seat; processes in the group stay.
func (s *Seat) Close() error {
	if s.unified == nil {
		return nil
	}
	return s.unified.Close()
}

// create makes path below the hierarchy's mount, level by level, ready for children and processes.
func (h Hierarchy) create(path string) error {
	level := h.Mount
	for element := range strings.SplitSeq(path, "/") {
		if h.Unified {
			if err := delegate(level); err != nil {
				return err
			}
		}
		child := filepath.Join(level, element)
		err := os.Mkdir(child, 0o755)
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("make control group: %w", err)
		}
		if err == nil && slices.Contains(h.Controllers, "cpuset") {
			if err := inheritCPUs(level, child); err != nil {
				return err
			}
		}
		level = child
	}
	return nil
}

// inheritCPUs gives a version 1 cpuset its parent's processors; a fresh one has none, and
// nothing may enter it.
func inheritCPUs(parent, child string) error {
	for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
		value, err := os.ReadFile(filepath.Join(parent, file))
		if err == nil {
			err = os.WriteFile(filepath.Join(child, file), value, 0)
		}
		if err != nil {
			return fmt.Errorf("inherit %s: %w", file, err)
		}
	}
	if err := os.WriteFile(filepath.Join(child, "cgroup.clone_children"), []byte("1"), 0); err != nil {
		return fmt.Errorf("let further groups inherit their processors: %w", err)
	}
	return nil
}

// delegate turns every controller of a version 2 group on for its children.
func delegate(group string) error {
	available, err := os.ReadFile(filepath.Join(group, "cgroup.controllers"))
	if err != nil {
		return fmt.Errorf("read the controllers: %w", err)
	}
	for controller := range strings.FieldsSeq(string(available)) {
		err := os.WriteFile(filepath.Join(group, "cgroup.subtree_control"), []byte("+"+controller), 0)
		if errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("turn on controller %s below %s: %w: move the processes in that group into one below it",
				controller, group, err)
		}
		if err != nil {
			return fmt.Errorf("turn on controller %s below %s: %w", controller, group, err)
		}
	}
	return nil
}

// removeAll removes a group and those below it, the deepest first. Files cannot be removed.
func removeAll(group string) error {
	var groups []string
	err := filepath.WalkDir(group, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.IsDir() {
			groups = append(groups, path)
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	})
	for _, path := range slices.Backward(groups) {
		if removal := unix.Rmdir(path); removal != nil && !errors.Is(removal, unix.ENOENT) {
			err = errors.Join(err, &fs.PathError{Op: "rmdir", Path: path, Err: removal})
		}
	}
	return err
}
