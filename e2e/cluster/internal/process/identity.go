// Package process names, finds and ends processes without ever touching a stranger that was
// given the number of one that has ended.
package process

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Identity names one process for ever: numbers are reused, a number and a start time are not.
type Identity struct {
	PID int `json:"pid"`
	// Start is the time the process started, in the kernel's clock ticks since boot.
	Start uint64 `json:"start"`
}

// ErrGone says that a process has ended.
var ErrGone = errors.New("the process has ended")

// Identify returns the identity of the process that has pid now.
func Identify(pid int) (Identity, error) {
	identity, state, err := look(pid)
	if err == nil && ended(state) {
		err = fmt.Errorf("process %d: %w", pid, ErrGone)
	}
	return identity, err
}

// Alive says whether this very process still runs.
func (i Identity) Alive() bool {
	now, err := Identify(i.PID)
	return err == nil && now == i
}

// look returns who has pid now, and the state it is in.
func look(pid int) (identity Identity, state string, err error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		return Identity{}, "", fmt.Errorf("process %d: %w", pid, ErrGone)
	}
	if err != nil {
		return Identity{}, "", fmt.Errorf("identify process %d: %w", pid, err)
	}
	state, start, err := parseStat(string(stat))
	if err != nil {
		return Identity{}, "", fmt.Errorf("identify process %d: %w", pid, err)
	}
	return Identity{PID: pid, Start: start}, state, nil
}

// ended says that a state is that of a process whose first thread has ended. Others may still be
// at it: the last thread of a namespace's first process waits for everything in there to end.
func ended(state string) bool { return state == "Z" || state == "X" }

// Signal sends signal to this very process; ErrGone when it has ended.
func (i Identity) Signal(signal unix.Signal) error {
	return i.withHandle(func(fd int) error {
		return unix.PidfdSendSignal(fd, signal, nil, 0)
	})
}

// End sends signal and waits until the process is gone, with all its threads. A process that is
// gone already is no error.
func (i Identity) End(ctx context.Context, signal unix.Signal) error {
	err := i.withHandle(func(fd int) error {
		if err := unix.PidfdSendSignal(fd, signal, nil, 0); err != nil {
			return err
		}
		return awaitExit(ctx, fd)
	})
	if errors.Is(err, ErrGone) || errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("end process %d with %s: %w", i.PID, signal, err)
	}
	return nil
}

// Await waits until the process is gone, with all its threads.
func (i Identity) Await(ctx context.Context) error {
	err := i.withHandle(func(fd int) error { return awaitExit(ctx, fd) })
	if errors.Is(err, ErrGone) {
		return nil
	}
	return err
}

// withHandle calls do with a file descriptor that means this process and can mean no other: the
// identity is checked after the descriptor was opened.
func (i Identity) withHandle(do func(fd int) error) error {
	fd, err := unix.PidfdOpen(i.PID, 0)
	if errors.Is(err, unix.ESRCH) {
		return ErrGone
	}
	if err != nil {
		return fmt.Errorf("open process %d: %w", i.PID, err)
	}
	defer unix.Close(fd)
	if now, _, err := look(i.PID); err != nil || now != i {
		return ErrGone
	}
	return do(fd)
}

func awaitExit(ctx context.Context, fd int) error {
	const slice = 50 * time.Millisecond
	for {
		ready, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(slice.Milliseconds()))
		if err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
		if ready > 0 {
			return nil
		}
		if err := context.Cause(ctx); err != nil {
			return fmt.Errorf("it did not end in time: %w", err)
		}
	}
}

// parseStat reads the state and the start time from the text of /proc/PID/stat. The second
// field is a name in parentheses that may itself hold spaces and parentheses.
func parseStat(stat string) (state string, start uint64, err error) {
	const stateField, startField = 0, 19 // counted behind the name
	fields := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
	if len(fields) <= startField {
		return "", 0, fmt.Errorf("%d fields behind the name in %q", len(fields), stat)
	}
	start, err = strconv.ParseUint(fields[startField], 10, 64)
	return fields[stateField], start, err
}
