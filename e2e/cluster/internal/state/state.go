// Package state remembers what a cluster consists of, in a directory of its own. It is what
// makes the commands idempotent: each can tell what an earlier one has done, even one that was
// killed half-way.
package state

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"sync"

	"nsm-e2e-cluster/internal/process"
)

// Phase is how far a cluster has come.
type Phase string

// The phases. A cluster that is found Starting by the holder of its lock was abandoned half-way.
const (
	Starting Phase = "starting"
	Up       Phase = "up"
	Failed   Phase = "failed"
)

// Spec is what a cluster was asked to be.
type Spec struct {
	// ControlPlaneOnly leaves out nodes and namespaces: etcd and API server on this machine's loopback.
	ControlPlaneOnly bool `json:"controlPlaneOnly,omitempty"`
	// ControllerManager adds the controllers to a control plane without nodes.
	ControllerManager bool   `json:"controllerManager,omitempty"`
	Nodes             int    `json:"nodes,omitempty"`
	AuditLog          string `json:"auditLog,omitempty"`
	AuditPolicy       string `json:"auditPolicy,omitempty"`
	// Programs is the directory of the Kubernetes programs; it names their version and build.
	Programs string `json:"programs"`
}

// Ports are the TCP ports of this machine's loopback a cluster uses.
type Ports struct {
	API        int `json:"api"`
	EtcdClient int `json:"etcdClient,omitempty"`
	EtcdPeer   int `json:"etcdPeer,omitempty"`
}

// Cluster is the record of one cluster. Its methods are safe for concurrent use.
type Cluster struct {
	Phase     Phase                       `json:"phase"`
	Spec      Spec                        `json:"spec"`
	Ports     Ports                       `json:"ports"`
	Processes map[string]process.Identity `json:"processes"`

	dir Dir
	mu  sync.Mutex
}

// New returns the record of a cluster about to be started, and writes it.
func New(dir Dir, spec Spec, ports Ports) (*Cluster, error) {
	cluster := &Cluster{
		Phase: Starting, Spec: spec, Ports: ports, Processes: map[string]process.Identity{}, dir: dir,
	}
	if err := os.MkdirAll(string(dir), 0o755); err != nil {
		return nil, fmt.Errorf("make the state directory: %w", err)
	}
	return cluster, cluster.save()
}

// Load reads the record in dir. Without one it returns nil and no error.
func Load(dir Dir) (*Cluster, error) {
	text, err := os.ReadFile(dir.record())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the cluster's record: %w", err)
	}
	cluster := &Cluster{dir: dir, Processes: map[string]process.Identity{}}
	if err := json.Unmarshal(text, cluster); err != nil {
		return nil, fmt.Errorf("read the cluster's record %s: %w; `cluster down` clears it away", dir.record(), err)
	}
	return cluster, nil
}

// SetPhase records that the cluster has come to phase.
func (c *Cluster) SetPhase(phase Phase) error {
	return c.change(func() { c.Phase = phase })
}

// Record notes that the process called name runs as identity.
func (c *Cluster) Record(name string, identity process.Identity) error {
	return c.change(func() { c.Processes[name] = identity })
}

// Forget notes that the process called name does not run any more.
func (c *Cluster) Forget(name string) error {
	return c.change(func() { delete(c.Processes, name) })
}

// Process returns the process called name.
func (c *Cluster) Process(name string) (process.Identity, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	identity, ok := c.Processes[name]
	return identity, ok
}

// All returns every recorded process by name.
func (c *Cluster) All() map[string]process.Identity {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.Processes)
}

func (c *Cluster) change(what func()) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	what()
	return c.save()
}

// save replaces the record as a whole, so that no reader ever sees half of one.
func (c *Cluster) save() error {
	text, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		return fmt.Errorf("encode the cluster's record: %w", err)
	}
	fresh := c.dir.record() + ".new"
	if err := os.WriteFile(fresh, append(text, '\n'), 0o644); err != nil {
		return fmt.Errorf("write the cluster's record: %w", err)
	}
	if err := os.Rename(fresh, c.dir.record()); err != nil {
		return fmt.Errorf("write the cluster's record: %w", err)
	}
	return nil
}

func (d Dir) record() string { return filepath.Join(string(d), "cluster.json") }
