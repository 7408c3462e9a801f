package namespace

import (
	"context"
	"fmt"
	"net"
	"os"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// OpenNetwork opens the network namespace of a process. While it is open the namespace stays.
func OpenNetwork(pid int) (*os.File, error) {
	file, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", pid))
	if err != nil {
		return nil, fmt.Errorf("open the network namespace of process %d: %w", pid, err)
	}
	return file, nil
}

// Dial connects to address from inside network. A socket belongs for ever to the namespace it
// was made in, so the connection can be used from anywhere.
func Dial(ctx context.Context, network *os.File, address string) (net.Conn, error) {
	type outcome struct {
		conn net.Conn
		err  error
	}
	result := make(chan outcome, 1)
	go func() {
		runtime.LockOSThread()
		if err := unix.Setns(int(network.Fd()), unix.CLONE_NEWNET); err != nil {
			result <- outcome{err: fmt.Errorf("enter the network namespace: %w", err)}
			return
		}
		dialer := net.Dialer{Timeout: 10 * time.Second}
		conn, err := dialer.DialContext(ctx, "tcp", address)
		result <- outcome{conn, err}
	}()
	made := <-result
	return made.conn, made.err
}
