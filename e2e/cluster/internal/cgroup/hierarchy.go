// Package cgroup gives a cluster its own subtree in every control group hierarchy of the
// machine, whether that is the one of version 2 or the several of version 1.
package cgroup

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
)

// Hierarchy is one mounted control group hierarchy.
type Hierarchy struct {
	// Mount is where it is mounted.
	Mount string
	// Unified says that it is of version 2. A machine with version 1 may mount one beside the
	// others, without controllers.
	Unified bool
	// Controllers are those of a version 1 hierarchy; a unified one tells them in a file.
	Controllers []string
}

// Discover returns the hierarchies mounted on this machine.
func Discover() ([]Hierarchy, error) {
	mounts, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("find the control groups: %w", err)
	}
	defer mounts.Close()
	hierarchies, err := parse(mounts)
	if err == nil && len(hierarchies) == 0 {
		err = fmt.Errorf("no control group hierarchy is mounted below %s", root)
	}
	return hierarchies, err
}

const root = "/sys/fs/cgroup"

// parse reads the text of /proc/PID/mountinfo. Of a hierarchy that is mounted several times it
// takes the first mount.
func parse(mountinfo io.Reader) ([]Hierarchy, error) {
	var found []Hierarchy
	seen := map[string]bool{}
	lines := bufio.NewScanner(mountinfo)
	for lines.Scan() {
		mount, filesystem, ok := strings.Cut(lines.Text(), " - ")
		where, what := strings.Fields(mount), strings.Fields(filesystem)
		if !ok || len(where) < 6 || len(what) < 3 {
			continue
		}
		device, path, kind, options := where[2], where[4], what[0], what[2]
		if kind != "cgroup" && kind != "cgroup2" || seen[device] {
			continue
		}
		if path != root && !strings.HasPrefix(path, root+"/") {
			continue
		}
		seen[device] = true
		hierarchy := Hierarchy{Mount: path, Unified: kind == "cgroup2"}
		if !hierarchy.Unified {
			hierarchy.Controllers = slices.DeleteFunc(strings.Split(options, ","), func(option string) bool {
				return option == "rw" || option == "ro"
			})
		}
		found = append(found, hierarchy)
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read the mounts: %w", err)
	}
	return found, nil
}
