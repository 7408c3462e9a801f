package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"nsm-e2e-cluster/internal/poll"
	"nsm-e2e-cluster/internal/process"
	"nsm-e2e-cluster/internal/state"
)

const clearTimeout = time.Minute

// Down removes the cluster, however far it had come, and then makes sure that nothing is left.
func (c *Cluster) Down(ctx context.Context) error {
	return c.locked(ctx, func() error {
		if left, err := c.left(); err == nil && len(left) == 0 {
			c.report.Step("cluster %s is down already", c.name)
			return nil
		}
		if err := c.clear(ctx); err != nil {
			return err
		}
		c.report.Step("cluster %s is down; nothing is left of it", c.name)
		return nil
	})
}

// clear removes whatever there is of the cluster. It does not stop at the first thing that
// cannot be removed.
func (c *Cluster) clear(ctx context.Context) error {
	ctx, cancel := within(ctx, clearTimeout, "removing the cluster")
	defer cancel()
	failures := errors.Join(c.endProcesses(ctx), c.removeGroups(ctx), c.removeFiles())
	left, err := c.left()
	if err != nil {
		return errors.Join(failures, err)
	}
	if len(left) > 0 {
		return errors.Join(failures, fmt.Errorf("of cluster %s these are left:\n  %s", c.name, strings.Join(left, "\n  ")))
	}
	return failures
}

// endProcesses kills every process of the cluster. With the first process of a namespace the
// kernel ends all others in it, and their mounts, links and namespaces go with them.
func (c *Cluster) endProcesses(ctx context.Context) error {
	if record, err := state.Load(c.dir); err == nil && record != nil {
		var recorded []process.Identity
		for _, identity := range record.All() {
			recorded = append(recorded, identity)
		}
		if err := process.EndAll(ctx, recorded); err != nil {
			return err
		}
	}
	// Also what an interrupted command had no time to record.
	return poll.Until(ctx, "processes to end", often, func(ctx context.Context) error {
		owned, err := process.Owned(string(c.dir))
		if err != nil || len(owned) == 0 {
			return err
		}
		return errors.Join(process.EndAll(ctx, owned), fmt.Errorf("%d were still running", len(owned)))
	})
}

func (c *Cluster) removeGroups(ctx context.Context) error {
	groups, err := c.groups()
	if err != nil || len(groups.Left()) == 0 {
		return nil // without control groups nothing of the cluster can be in them
	}
	return groups.Remove(ctx, "")
}

// removeFiles removes the state directory, unless something is mounted in it: then what would be
// removed may not be the cluster's at all.
func (c *Cluster) removeFiles() error {
	mounts, err := mountsBelow(string(c.dir))
	if err != nil {
		return err
	}
	if len(mounts) > 0 {
		return fmt.Errorf("%s is kept because of the mount on %s; unmount that first", c.dir, mounts[0])
	}
	if err := os.RemoveAll(string(c.dir)); err != nil {
		return fmt.Errorf("remove the state directory: %w", err)
	}
	return nil
}

// left names everything that exists of the cluster.
func (c *Cluster) left() ([]string, error) {
	var left []string
	owned, err := process.Owned(string(c.dir))
	if err != nil {
		return nil, err
	}
	for _, identity := range owned {
		left = append(left, identity.Describe())
	}
	if groups, err := c.groups(); err == nil {
		for _, path := range groups.Left() {
			left = append(left, "control group "+path)
		}
	}
	mounts, err := mountsBelow(string(c.dir))
	if err != nil {
		return nil, err
	}
	for _, path := range mounts {
		left = append(left, "mount on "+path)
	}
	if _, err := os.Lstat(string(c.dir)); err == nil {
		left = append(left, "directory "+string(c.dir))
	}
	return left, nil
}

func mountsBelow(dir string) ([]string, error) {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("read the mounts: %w", err)
	}
	dir, err = filepath.EvalSymlinks(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("find the state directory: %w", err)
	}
	var below []string
	for line := range strings.Lines(string(mounts)) {
		const mountPoint = 4
		fields := strings.Fields(line)
		if len(fields) > mountPoint && strings.HasPrefix(fields[mountPoint]+"/", dir+"/") {
			below = append(below, fields[mountPoint])
		}
	}
	return below, nil
}
