package build

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"time"

	"nsm-e2e-cluster/internal/progress"
)

const (
	compileTimeout = time.Hour
	reportEvery    = 15 * time.Second
	keptLines      = 30
)

// compile runs `go build` for a static binary in the module at source, and says from time to
// time how far it is.
func compile(ctx context.Context, report *progress.Reporter, source string, args ...string) error {
	ctx, cancel := context.WithTimeout(ctx, compileTimeout)
	defer cancel()
	// -v names every package as it is compiled, which is the only sign of life a build gives.
	command := exec.CommandContext(ctx, "go", append([]string{"build", "-v", "-trimpath", "-buildvcs=false"}, args...)...)
	command.Dir = source
	command.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOWORK=off")
	output, err := command.StderrPipe()
	if err != nil {
		return fmt.Errorf("go build: %w", err)
	}
	if err := command.Start(); err != nil {
		return fmt.Errorf("go build: %w", err)
	}
	var compiled atomic.Int64
	finished := make(chan struct{})
	go func() {
		tick := time.NewTicker(reportEvery)
		defer tick.Stop()
		for {
			select {
			case <-finished:
				return
			case <-tick.C:
				report.Step("still building: %d packages compiled", compiled.Load())
			}
		}
	}()
	complaints := readOutput(output, &compiled)
	err = command.Wait()
	close(finished)
	if cause := context.Cause(ctx); err != nil && cause != nil {
		return fmt.Errorf("go build: %w", errors.Join(cause, err))
	}
	if err != nil {
		return fmt.Errorf("go build: %w:\n%s", err, strings.Join(complaints, "\n"))
	}
	return nil
}

// readOutput counts the package names in the output of `go build -v` and returns the last of the
// other lines, which say what went wrong.
func readOutput(output io.Reader, compiled *atomic.Int64) []string {
	var complaints []string
	lines := bufio.NewScanner(output)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line := lines.Text()
		if !strings.ContainsAny(line, " \t:") {
			compiled.Add(1)
			continue
		}
		complaints = append(complaints, line)
		if len(complaints) > keptLines {
			complaints = complaints[1:]
		}
	}
	return complaints
}
