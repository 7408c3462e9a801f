package cluster

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"nsm-e2e-cluster/internal/plan"
	"nsm-e2e-cluster/internal/state"
)

// DefaultName is the cluster that commands mean when none is named, and DefaultPort where its
// API server is found. Other clusters get a free port each.
const (
	DefaultName = "nsm"
	DefaultPort = 16443
)

// Options is what a cluster is asked to be.
type Options struct {
	Nodes             int
	ControlPlaneOnly  bool
	ControllerManager bool
	// Port is the API server's on this machine's loopback; 0 leaves it to the driver.
	Port int
	// Images are archives to load on every node.
	Images []string
	// AuditLog and AuditPolicy are files; a log without a policy gets one that logs every request.
	AuditLog, AuditPolicy string
	// Timeout is how long starting may take, once everything is built.
	Timeout time.Duration
}

// Validate checks what can be checked before anything is built, and makes paths absolute.
func (o *Options) Validate() error {
	switch {
	case o.ControlPlaneOnly && len(o.Images) > 0:
		return errors.New("a control plane alone has no node to load images on: leave out --image")
	case !o.ControlPlaneOnly && o.ControllerManager:
		return errors.New("--with-controller-manager goes with --control-plane-only: with nodes there is always one")
	case !o.ControlPlaneOnly && (o.Nodes < 1 || o.Nodes > plan.MaxNodes):
		return fmt.Errorf("%d nodes: use 1 to %d", o.Nodes, plan.MaxNodes)
	case o.Port < 0 || o.Port > 65535:
		return fmt.Errorf("port %d: use 1 to 65535, or 0 for a free one", o.Port)
	case o.AuditPolicy != "" && o.AuditLog == "":
		return errors.New("an audit policy does nothing without a log: add --audit-log")
	}
	read := []*string{&o.AuditPolicy}
	for i := range o.Images {
		read = append(read, &o.Images[i])
	}
	for _, path := range append(read, &o.AuditLog) {
		if *path == "" {
			continue
		}
		absolute, err := filepath.Abs(*path)
		if err != nil {
			return fmt.Errorf("path %s: %w", *path, err)
		}
		*path = absolute
	}
	for _, path := range read {
		if _, err := os.Stat(*path); *path != "" && err != nil {
			return fmt.Errorf("look for a file to read: %w", err)
		}
	}
	return nil
}

func (o *Options) spec(programs string) state.Spec {
	spec := state.Spec{
		ControlPlaneOnly:  o.ControlPlaneOnly,
		ControllerManager: o.ControllerManager,
		AuditLog:          o.AuditLog,
		AuditPolicy:       o.AuditPolicy,
		Programs:          programs,
	}
	if !o.ControlPlaneOnly {
		spec.Nodes = o.Nodes
	}
	return spec
}

// conflict says in what a cluster that is up differs from what is asked for, or is empty.
func conflict(is *state.Cluster, wanted state.Spec, port int) string {
	switch {
	case is.Spec.ControlPlaneOnly != wanted.ControlPlaneOnly:
		return "one has nodes, the other is a control plane only"
	case is.Spec.Nodes != wanted.Nodes:
		return fmt.Sprintf("it has %d nodes, not %d", is.Spec.Nodes, wanted.Nodes)
	case is.Spec.ControllerManager != wanted.ControllerManager:
		return "only one of them has a controller manager"
	case is.Spec.AuditLog != wanted.AuditLog || is.Spec.AuditPolicy != wanted.AuditPolicy:
		return fmt.Sprintf("its audit log is %q by policy %q", is.Spec.AuditLog, is.Spec.AuditPolicy)
	case port != 0 && is.Ports.API != port:
		return fmt.Sprintf("it answers on port %d, not %d", is.Ports.API, port)
	case is.Spec.Programs != wanted.Programs:
		return fmt.Sprintf("it runs the programs in %s, not those in %s", is.Spec.Programs, wanted.Programs)
	}
	return ""
}
