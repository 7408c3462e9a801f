package cluster

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"nsm-e2e-cluster/internal/namespace"
	"nsm-e2e-cluster/internal/plan"
	"nsm-e2e-cluster/internal/state"
)

const loadTimeout = 5 * time.Minute

// LoadImages loads image archives on every node. An image of the same name is replaced; pods
// that run stay as they are.
func (c *Cluster) LoadImages(ctx context.Context, archives []string) error {
	record, err := c.Record()
	if err != nil {
		return err
	}
	if record.Spec.ControlPlaneOnly {
		return fmt.Errorf("cluster %s has no nodes to load images on", c.name)
	}
	return c.loadImages(ctx, record, archives)
}

func (c *Cluster) loadImages(ctx context.Context, record *state.Cluster, archives []string) error {
	work, ctx := errgroup.WithContext(ctx)
	for _, node := range plan.Nodes(record.Spec.Nodes) {
		work.Go(func() error {
			for _, archive := range archives {
				if err := loadImage(ctx, record, node, archive); err != nil {
					return err
				}
				c.report.Step("%s has %s", node.Name(), filepath.Base(archive))
			}
			return nil
		})
	}
	return work.Wait()
}

// loadImage loads one archive on one node.
func loadImage(ctx context.Context, record *state.Cluster, node plan.Node, path string) error {
	ctx, cancel := within(ctx, loadTimeout, "loading "+path)
	defer cancel()
	archive, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("load an image: %w", err)
	}
	defer archive.Close()
	first, ok := record.Process(processOf(node, nodeInit))
	if !ok || !first.Alive() {
		return fmt.Errorf("load %s on %s: the node has no power", path, node.Name())
	}
	var output bytes.Buffer
	command, err := namespace.Place{Init: first.PID}.Start(func() (*exec.Cmd, error) {
		// "k8s.io" is the namespace of containerd in which kubelets look for images.
		command := exec.CommandContext(ctx, "/usr/bin/ctr", "--namespace", "k8s.io", "images", "import", "-")
		command.Stdin, command.Stdout, command.Stderr = archive, &output, &output
		command.Dir = "/"
		return command, nil
	})
	if err == nil {
		err = command.Wait()
	}
	if err != nil {
		return fmt.Errorf("load %s on %s: %w: %s", path, node.Name(), err, strings.TrimSpace(output.String()))
	}
	return nil
}
