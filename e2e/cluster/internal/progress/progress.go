// Package progress tells a person what is being done and how long it has taken so far.
package progress

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"
)

// Reporter writes one line a step, with the time since it was made. It is safe for concurrent use.
type Reporter struct {
	mu      sync.Mutex
	out     io.Writer
	dim     bool
	started time.Time
}

// New returns a Reporter that writes to out; the times are dimmed when out is a terminal.
func New(out io.Writer) *Reporter {
	return &Reporter{out: out, dim: isTerminal(out), started: time.Now()}
}

// Step writes one line.
func (r *Reporter) Step(format string, args ...any) {
	elapsed := fmt.Sprintf("%6.2fs", time.Since(r.started).Seconds())
	if r.dim {
		elapsed = "\x1b[2m" + elapsed + "\x1b[0m"
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	fmt.Fprintf(r.out, "%s  %s\n", elapsed, fmt.Sprintf(format, args...))
}

func isTerminal(out io.Writer) bool {
	file, ok := out.(*os.File)
	if !ok {
		return false
	}
	info, err := file.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
