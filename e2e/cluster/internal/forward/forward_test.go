package forward

import (
	"io"
	"net"
	"os"
	"testing"

	"nsm-e2e-cluster/internal/namespace"
)

// serve starts a forwarder to address in this process's own namespace and returns where it listens.
func serve(t *testing.T, address string) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("entering a network namespace takes root")
	}
	network, err := namespace.OpenNetwork(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- Serve(listener, network, address) }()
	t.Cleanup(func() {
		listener.Close()
		if err := <-done; err != nil {
			t.Error(err)
		}
		network.Close()
	})
	return listener.Addr().String()
}

func TestAClientThatHasFinishedSpeakingStillHearsTheAnswer(t *testing.T) {
	server, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	go func() {
		conn, err := server.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		question, _ := io.ReadAll(conn) // ends when the client closes its writing side
		_, _ = conn.Write(append([]byte("answer to "), question...))
	}()
	conn, err := net.Dial("tcp", serve(t, server.Addr().String()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("ping")); err != nil {
		t.Fatal(err)
	}
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if answer, err := io.ReadAll(conn); err != nil || string(answer) != "answer to ping" {
		t.Errorf("answer %q, error %v", answer, err)
	}
}

func TestAConnectionIsClosedWhenNobodyListensBehindTheForwarder(t *testing.T) {
	unused, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	unused.Close()
	conn, err := net.Dial("tcp", serve(t, unused.Addr().String()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if n, err := conn.Read(make([]byte, 1)); err == nil {
		t.Errorf("read %d bytes from nobody", n)
	}
}
