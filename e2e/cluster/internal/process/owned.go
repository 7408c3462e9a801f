package process

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// marker is the environment variable that says whose a process is. It is set on every process
// the driver leaves behind, so that even one that no record mentions can be found: a driver can
// be killed between starting a process and writing that down.
const marker = "NSM_E2E_PROCESS_OF"

// Mark returns the environment entry of processes that belong to owner.
func Mark(owner string) string {
	return marker + "=" + owner
}

// Owned returns the live processes marked as owner's, in the order of their numbers.
func Owned(owner string) ([]Identity, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	var owned []Identity
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		environment, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
		if err != nil || !marked(environment, owner) {
			continue // ended meanwhile, or another user's
		}
		if identity, err := Identify(pid); err == nil {
			owned = append(owned, identity)
		}
	}
	slices.SortFunc(owned, func(a, b Identity) int { return a.PID - b.PID })
	return owned, nil
}

// EndAll kills every process and waits until they are gone. One that resists does not keep the
// others alive.
func EndAll(ctx context.Context, processes []Identity) error {
	var failures []error
	for _, process := range processes {
		err := process.Signal(unix.SIGKILL)
		if err != nil && !errors.Is(err, ErrGone) && !errors.Is(err, unix.ESRCH) {
			failures = append(failures, fmt.Errorf("kill process %d: %w", process.PID, err))
		}
	}
	for _, process := range processes {
		if err := process.End(ctx, unix.SIGKILL); err != nil {
			failures = append(failures, err)
		}
	}
	return errors.Join(failures...)
}

// Describe returns what a process was started as, for messages.
func (i Identity) Describe() string {
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", i.PID))
	if err != nil {
		return fmt.Sprintf("process %d", i.PID)
	}
	words := strings.Split(strings.TrimRight(string(line), "\x00"), "\x00")
	return fmt.Sprintf("process %d (%s)", i.PID, strings.Join(words[:min(3, len(words))], " "))
}

func marked(environment []byte, owner string) bool {
	want := []byte(Mark(owner))
	for entry := range bytes.SplitSeq(environment, []byte{0}) {
		if bytes.Equal(entry, want) {
			return true
		}
	}
	return false
}
