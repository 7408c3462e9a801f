package cluster

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"nsm-e2e-cluster/internal/component"
	"nsm-e2e-cluster/internal/namespace"
	"nsm-e2e-cluster/internal/process"
	"nsm-e2e-cluster/internal/state"
)

// spawner starts the processes of one cluster and leaves them running.
type spawner struct {
	cluster *Cluster
	record  *state.Cluster
	// died is told when a process ends while the driver is still there.
	died func(error)
}

// program starts a program at a place.
func (s *spawner) program(name string, place namespace.Place, program component.Program) error {
	log, err := s.openLog(name)
	if err != nil {
		return err
	}
	defer log.Close()
	if place.Init == 0 {
		return s.start(name, place, func() (*exec.Cmd, error) {
			command := exec.Command(program.Path, program.Args...)
			command.Stdout, command.Stderr = log, log
			return command, nil
		})
	}
	line := append([]string{program.Path}, program.Args...)
	pid, err := place.Launch([]string{InternalCommand, LaunchCommand, "--"}, line, s.environment(), log)
	if err != nil {
		return fmt.Errorf("start %s: %w", name, err)
	}
	identity, err := s.note(name, pid)
	if err != nil {
		return err
	}
	go func() {
		if identity.Await(context.Background()) == nil {
			s.died(fmt.Errorf("%s ended: %s", name, s.lastWords(name)))
		}
	}()
	return nil
}

// start starts the command that build returns, apart from this process, and records it.
func (s *spawner) start(name string, place namespace.Place, build func() (*exec.Cmd, error)) error {
	command, err := place.Start(func() (*exec.Cmd, error) {
		command, err := build()
		if err != nil {
			return nil, err
		}
		if command.SysProcAttr == nil {
			command.SysProcAttr = &syscall.SysProcAttr{}
		}
		command.SysProcAttr.Setsid = true
		command.Dir = "/"
		command.Env = s.environment()
		return command, nil
	})
	if err != nil {
		return fmt.Errorf("start %s: %w", name, err)
	}
	_, err = s.note(name, command.Process.Pid)
	// The process is this one's child until this one ends, and must be reaped until then.
	go func() {
		err := command.Wait()
		s.died(fmt.Errorf("%s ended (%v): %s", name, exitOf(err), s.lastWords(name)))
	}()
	return err
}

// note records that the process called name was started and has the number pid.
func (s *spawner) note(name string, pid int) (process.Identity, error) {
	identity, err := process.Identify(pid)
	if err == nil {
		err = s.record.Record(name, identity)
	}
	if err != nil {
		err = fmt.Errorf("start %s: %w; %s", name, err, s.lastWords(name))
	}
	return identity, err
}

// environment is that of every process, whatever the driver's own is.
func (s *spawner) environment() []string {
	return []string{
		"PATH=" + component.SearchPath,
		"HOME=/root",
		process.Mark(string(s.cluster.dir)),
	}
}

func (s *spawner) openLog(name string) (*os.File, error) {
	path := s.cluster.dir.Log(name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("make the log directory: %w", err)
	}
	log, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, fmt.Errorf("open the log of %s: %w", name, err)
	}
	return log, nil
}

// lastWords returns the end of a process's log, and where the rest is.
func (s *spawner) lastWords(name string) string {
	const lines, bytes = 5, 2000
	path := s.cluster.dir.Log(name)
	text, err := os.ReadFile(path)
	if err != nil || len(text) == 0 {
		return "it left no log"
	}
	all := strings.Split(strings.TrimSpace(string(text[max(0, len(text)-bytes):])), "\n")
	return fmt.Sprintf("the end of %s:\n  %s", path, strings.Join(all[max(0, len(all)-lines):], "\n  "))
}

func exitOf(err error) string {
	if err == nil {
		return "exit status 0"
	}
	return err.Error()
}

// within is context.WithTimeoutCause with a cause that says what took too long.
func within(ctx context.Context, limit time.Duration, what string) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, limit, fmt.Errorf("%s took more than %s", what, limit))
}
