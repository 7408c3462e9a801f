package cluster

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"syscall"

	"nsm-e2e-cluster/internal/state"
)

// Ports are chosen below the range from which the kernel takes those of outgoing connections.
const firstPort, lastPort = 20000, 31999

// choosePorts returns free ports for a cluster: the API server's own when it is given.
func choosePorts(api int, alone bool) (state.Ports, error) {
	var taken []int
	choose := func() (int, error) {
		port, err := freePort(taken)
		taken = append(taken, port)
		return port, err
	}
	ports := state.Ports{API: api}
	var err error
	if api == 0 {
		if ports.API, err = choose(); err != nil {
			return state.Ports{}, err
		}
	} else if err := checkFree(api); err != nil {
		return state.Ports{}, err
	}
	if !alone {
		return ports, nil
	}
	if ports.EtcdClient, err = choose(); err != nil {
		return state.Ports{}, err
	}
	ports.EtcdPeer, err = choose()
	return ports, err
}

func freePort(except []int) (int, error) {
	const tries = 200
	for range tries {
		port := firstPort + rand.IntN(lastPort-firstPort+1)
		if !slices.Contains(except, port) && checkFree(port) == nil {
			return port, nil
		}
	}
	return 0, fmt.Errorf("found no free port on the loopback between %d and %d", firstPort, lastPort)
}

func checkFree(port int) error {
	listener, err := listen(port)
	if err != nil {
		return err
	}
	return listener.Close()
}

func listen(port int) (*net.TCPListener, error) {
	listener, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port})
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("port %d on the loopback is in use; choose another with --port", port)
	}
	if err != nil {
		return nil, fmt.Errorf("listen on port %d of the loopback: %w", port, err)
	}
	return listener, nil
}
