package cluster

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"syscall"
	"time"

	"nsm-e2e-cluster/internal/namespace"
	"nsm-e2e-cluster/internal/nodeinit"
	"nsm-e2e-cluster/internal/plan"
)

// Hidden commands of the driver itself, by which it starts processes that stay.
const (
	InternalCommand = "internal"
	InitCommand     = "init"
	ForwardCommand  = "forward"
	LaunchCommand   = "launch"
)

// Files a forwarder is given, by number.
const (
	ForwardListener = 3
	ForwardNetwork  = 4
)

// furnishTimeout is how long a first process may take to furnish its namespaces.
const furnishTimeout = 20 * time.Second

// first starts the first process of fresh namespaces and waits until it has furnished them.
func (s *spawner) first(name string, place namespace.Place, spec nodeinit.Spec) error {
	order, err := json.Marshal(spec)
	if err != nil {
		return fmt.Errorf("encode the order to %s: %w", name, err)
	}
	log, err := s.openLog(name)
	if err != nil {
		return err
	}
	defer log.Close()
	answer, ours, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("start %s: %w", name, err)
	}
	defer answer.Close()
	err = s.start(name, place, func() (*exec.Cmd, error) {
		command, err := self(InitCommand)
		if err != nil {
			return nil, err
		}
		command.Stdin, command.Stdout, command.Stderr = bytes.NewReader(order), ours, log
		command.SysProcAttr = &syscall.SysProcAttr{Cloneflags: namespace.Fresh}
		return command, nil
	})
	ours.Close()
	if err != nil {
		return err
	}
	if err := answer.SetReadDeadline(time.Now().Add(furnishTimeout)); err != nil {
		return fmt.Errorf("wait for %s: %w", name, err)
	}
	if err := nodeinit.AwaitReady(answer); err != nil {
		return fmt.Errorf("furnish the namespaces of %s: %w", name, err)
	}
	return nil
}

// forward starts the process that carries connections from listener to the API server.
func (s *spawner) forward(place namespace.Place, listener *net.TCPListener, controlPlane int) error {
	defer listener.Close()
	socket, err := listener.File()
	if err != nil {
		return fmt.Errorf("hand over the listener: %w", err)
	}
	defer socket.Close()
	network, err := namespace.OpenNetwork(controlPlane)
	if err != nil {
		return err
	}
	defer network.Close()
	log, err := s.openLog(forwarder)
	if err != nil {
		return err
	}
	defer log.Close()
	return s.start(forwarder, place, func() (*exec.Cmd, error) {
		command, err := self(ForwardCommand, fmt.Sprintf("127.0.0.1:%d", plan.APIPort))
		if err != nil {
			return nil, err
		}
		command.Stdout, command.Stderr = log, log
		command.ExtraFiles = []*os.File{socket, network}
		return command, nil
	})
}

// self returns the driver's own hidden command.
func self(args ...string) (*exec.Cmd, error) {
	path, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find the driver's own program: %w", err)
	}
	return exec.Command(path, append([]string{InternalCommand}, args...)...), nil
}
