// Package lockfile serialises processes of one machine by advisory locks on files.
package lockfile

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"nsm-e2e-cluster/internal/poll"
)

// Lock is a held lock. The kernel gives it up when its holder dies, however it dies.
type Lock struct {
	file *os.File
}

// Acquire waits until it holds the lock at path, or ctx ends. The file is made when missing.
func Acquire(ctx context.Context, path string) (*Lock, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("make the directory of lock %s: %w", path, err)
	}
	var held *Lock
	err := poll.Until(ctx, "lock "+path, 20*time.Millisecond, func(context.Context) error {
		lock, err := try(path)
		held = lock
		return err
	})
	return held, err
}

// Release gives the lock up and removes its file, so that nothing is left behind.
func (l *Lock) Release() error {
	return errors.Join(os.Remove(l.file.Name()), l.file.Close())
}

var errHeld = errors.New("another command holds it")

func try(path string) (*Lock, error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		file.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, errHeld
		}
		return nil, err
	}
	// The last holder removed its file; a lock on a file that path no longer names keeps nobody out.
	mine, err := file.Stat()
	if err == nil {
		var current os.FileInfo
		if current, err = os.Stat(path); err == nil && os.SameFile(mine, current) {
			return &Lock{file: file}, nil
		}
	}
	file.Close()
	return nil, errHeld
}
