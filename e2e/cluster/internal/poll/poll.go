// Package poll waits for conditions: always with an end, and always able to say what was missing.
package poll

import (
	"context"
	"fmt"
	"time"
)

// Until calls check every interval until it returns nil or ctx ends. The error names what was
// waited for and carries check's last answer, which says what was still missing.
func Until(ctx context.Context, what string, interval time.Duration, check func(context.Context) error) error {
	started := time.Now()
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		missing := check(ctx)
		if missing == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: gave up after %s (%w): %w",
				what, time.Since(started).Round(10*time.Millisecond), context.Cause(ctx), missing)
		case <-tick.C:
		}
	}
}
