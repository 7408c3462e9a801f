// Package cluster brings clusters up, looks after them and takes them down again.
//
// A cluster is a control plane and nodes, each in Linux namespaces of its own that a first
// process holds open. On the machine itself there is one listener on the loopback, a control
// group subtree and a state directory, and nothing else.
package cluster

import (
	"context"
	"errors"
	"fmt"
	"time"

	"nsm-e2e-cluster/internal/cgroup"
	"nsm-e2e-cluster/internal/lockfile"
	"nsm-e2e-cluster/internal/progress"
	"nsm-e2e-cluster/internal/state"
)

// Names of processes that are no program of Kubernetes, as they are recorded and logged.
const (
	controlPlaneInit = "init"
	forwarder        = "forwarder"
)

// Control groups below the cluster's own.
const (
	controlPlaneGroup = "control-plane"
	machineGroup      = "machine"
)

// ErrNotUp says that a command needs a cluster that is up.
var ErrNotUp = errors.New("it is not up")

// Cluster is one cluster by its name, whether it exists or not.
type Cluster struct {
	name   string
	dir    state.Dir
	report *progress.Reporter
}

// Open returns the cluster called name. It makes nothing.
func Open(name string, report *progress.Reporter) (*Cluster, error) {
	dir, err := state.DirOf(name)
	if err != nil {
		return nil, err
	}
	return &Cluster{name: name, dir: dir, report: report}, nil
}

// Kubeconfig is the file the cluster's administrator reaches it by.
func (c *Cluster) Kubeconfig() string { return c.dir.Kubeconfig() }

// Record returns what is known of the cluster, or ErrNotUp.
func (c *Cluster) Record() (*state.Cluster, error) {
	record, err := state.Load(c.dir)
	if err != nil {
		return nil, err
	}
	if record == nil || record.Phase != state.Up {
		return nil, fmt.Errorf("cluster %s: %w; start it with `cluster up --name %s`", c.name, ErrNotUp, c.name)
	}
	return record, nil
}

// lockTimeout is how long a command waits for another one on the same cluster.
const lockTimeout = 3 * time.Minute

// locked calls do while no other command can change the cluster.
func (c *Cluster) locked(ctx context.Context, do func() error) (err error) {
	waiting, cancel := context.WithTimeout(ctx, lockTimeout)
	defer cancel()
	lock, err := lockfile.Acquire(waiting, c.dir.Lock())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.Release()) }()
	return do()
}

// cgroup is the name of the cluster's control group.
func (c *Cluster) cgroup() string { return "nsm-e2e-" + c.name }

func (c *Cluster) groups() (*cgroup.Tree, error) { return cgroup.Open(c.cgroup()) }
