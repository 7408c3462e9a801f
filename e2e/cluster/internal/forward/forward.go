// Package forward carries TCP connections from this machine's loopback into a network
// namespace, without an address, route or rule on the machine.
package forward

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"time"

	"nsm-e2e-cluster/internal/namespace"
)

const dialTimeout = 10 * time.Second

// Serve accepts connections from listener and joins each to one made to address inside network.
// It returns when the listener is closed or fails for good.
func Serve(listener net.Listener, network *os.File, address string) error {
	for {
		near, err := listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		var temporary net.Error
		if errors.As(err, &temporary) && temporary.Timeout() {
			continue
		}
		if err != nil {
			return fmt.Errorf("accept on %s: %w", listener.Addr(), err)
		}
		go func() {
			if err := carry(near, network, address); err != nil {
				log.Printf("connection from %s: %v", near.RemoteAddr(), err)
			}
		}()
	}
}

func carry(near net.Conn, network *os.File, address string) error {
	defer near.Close()
	ctx, cancel := context.WithTimeout(context.Background(), dialTimeout)
	defer cancel()
	far, err := namespace.Dial(ctx, network, address)
	if err != nil {
		return err
	}
	defer far.Close()
	join(near, far)
	return nil
}

// join copies both ways until both directions have ended. The end of one direction is passed on
// as such, so that a client may finish speaking and still listen; a failure ends both.
func join(a, b net.Conn) {
	done := make(chan error, 2)
	for _, direction := range [...]struct{ to, from net.Conn }{{a, b}, {b, a}} {
		go func() {
			_, err := io.Copy(direction.to, direction.from)
			if err == nil {
				err = closeWrite(direction.to)
			}
			done <- err
		}()
	}
	if err := <-done; err != nil {
		a.Close()
		b.Close()
	}
	<-done
}

func closeWrite(conn net.Conn) error {
	if half, ok := conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return conn.Close()
}
