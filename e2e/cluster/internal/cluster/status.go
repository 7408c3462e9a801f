package cluster

import (
	"context"
	"fmt"
	"slices"
	"time"

	"nsm-e2e-cluster/internal/api"
	"nsm-e2e-cluster/internal/state"
)

// State is what a cluster is found to be in.
type State string

// The states. A degraded cluster is partly there, or there and not well.
const (
	StateUp       State = "up"
	StateDown     State = "down"
	StateDegraded State = "degraded"
)

// Status is what can be said of a cluster.
type Status struct {
	Name             string     `json:"name"`
	State            State      `json:"state"`
	Problems         []string   `json:"problems,omitempty"`
	ControlPlaneOnly bool       `json:"controlPlaneOnly"`
	Version          string     `json:"version,omitempty"`
	Server           string     `json:"server,omitempty"`
	Kubeconfig       string     `json:"kubeconfig,omitempty"`
	Logs             string     `json:"logs,omitempty"`
	Nodes            []api.Node `json:"nodes,omitempty"`
}

const inspectTimeout = 10 * time.Second

// Status looks at the cluster.
func (c *Cluster) Status(ctx context.Context) Status {
	status, _ := c.inspect(ctx)
	return status
}

// inspect looks at the cluster and also returns its record, if it has one.
func (c *Cluster) inspect(ctx context.Context) (Status, *state.Cluster) {
	ctx, cancel := within(ctx, inspectTimeout, "looking at the cluster")
	defer cancel()
	status := Status{Name: c.name, State: StateDegraded}
	record, err := state.Load(c.dir)
	switch {
	case err != nil:
		status.Problems = []string{err.Error()}
		return status, nil
	case record == nil || record.Phase == state.Failed:
		left, err := c.left()
		if err == nil && (len(left) == 0 || record != nil) {
			status.State = StateDown
		}
		if record != nil {
			status.Problems, status.Logs = []string{"the last start failed"}, c.dir.Logs()
		} else if len(left) > 0 {
			status.Problems = append([]string{"remains of a cluster without a record"}, left...)
		}
		return status, record
	}
	status.ControlPlaneOnly = record.Spec.ControlPlaneOnly
	status.Server = fmt.Sprintf("https://127.0.0.1:%d", record.Ports.API)
	status.Kubeconfig, status.Logs = c.dir.Kubeconfig(), c.dir.Logs()
	status.Problems = append(deadProcesses(record), c.askAPI(ctx, record, &status)...)
	if record.Phase != state.Up {
		status.Problems = append([]string{"it is starting, or its start was interrupted"}, status.Problems...)
	}
	if len(status.Problems) == 0 {
		status.State = StateUp
	}
	return status, record
}

func deadProcesses(record *state.Cluster) []string {
	var problems []string
	for name, identity := range record.All() {
		if !identity.Alive() {
			problems = append(problems, name+" is not running")
		}
	}
	slices.Sort(problems)
	return problems
}

// askAPI fills in what the API server says, and returns what is wrong.
func (c *Cluster) askAPI(ctx context.Context, record *state.Cluster, status *Status) []string {
	client, err := api.New(record.Ports.API, c.dir.Keys())
	if err != nil {
		return []string{err.Error()}
	}
	defer client.Close()
	if err := client.Ready(ctx); err != nil {
		return []string{err.Error()}
	}
	if status.Version, err = client.Version(ctx); err != nil {
		return []string{err.Error()}
	}
	if record.Spec.ControlPlaneOnly {
		return nil
	}
	if status.Nodes, err = client.Nodes(ctx); err != nil {
		return []string{err.Error()}
	}
	if err := missingNode(status.Nodes, record.Spec.Nodes); err != nil {
		return []string{err.Error()}
	}
	return nil
}
