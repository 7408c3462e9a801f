package sandbox

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/networkservicemesh/api/pkg/api/networkservice"
	registryapi "github.com/networkservicemesh/api/pkg/api/registry"
	"google.golang.org/grpc"

	"github.com/networkservicemesh/sdk/pkg/networkservice/chains/nsmgr"
	"github.com/networkservicemesh/sdk/pkg/networkservice/core/adapters"
	"github.com/networkservicemesh/sdk/pkg/registry"
	"github.com/networkservicemesh/sdk/pkg/registry/chains/memory"
	registryadapters "github.com/networkservicemesh/sdk/pkg/registry/core/adapters"
	"github.com/networkservicemesh/sdk/pkg/tools/grpcutils"
	"github.com/networkservicemesh/sdk/pkg/tools/token"
)

// Where a program has to listen is in the context, as the suppliers are not told.
type listenOnKey struct{}

func listeningOn(ctx context.Context, listenOn *url.URL) context.Context {
	return context.WithValue(ctx, listenOnKey{}, listenOn)
}

// program is a process with the services of an nsmgr or a registry.
type program struct {
	networkservice.NetworkServiceServer
	networkservice.MonitorConnectionServer
	registry.Registry
}

// Register offers nothing: the process serves by itself.
func (*program) Register(*grpc.Server) {}

// serveOthers serves what is no process.
func serveOthers(ctx context.Context, t *testing.T, listenOn *url.URL, served interface{ Register(*grpc.Server) }) {
	if _, ok := served.(*program); !ok {
		serve(ctx, t, listenOn, served.Register)
	}
}

var started atomic.Int64

// start runs `nsm <role>` until the context ends, and returns when it can be called.
func start(ctx context.Context, role string, tokens token.GeneratorFunc, environment ...string) *program {
	listenOn := ctx.Value(listenOnKey{}).(*url.URL)
	_, expires, err := tokens(nil)
	must(err)
	log, err := os.Create(filepath.Join(os.Getenv("NSM_CONFORMANCE_LOGS"), fmt.Sprintf("%s-%d", role, started.Add(1))))
	must(err)
	process := exec.CommandContext(ctx, os.Getenv("NSM_BIN"), role)
	process.Stdout, process.Stderr = log, log
	process.Env = append([]string{
		"NSM_LISTEN_ON=" + listenOn.String(),
		"NSM_MAX_TOKEN_LIFETIME=" + time.Until(expires).Round(time.Millisecond).String(),
		"NSM_TRUSTED_IDS=*",
		"NSM_LOG_LEVEL=debug",
		"SPIFFE_ENDPOINT_SOCKET=" + os.Getenv("SPIFFE_ENDPOINT_SOCKET"),
	}, environment...)
	// A test may say where it runs.
	for _, name := range []string{"NODE_NAME", "POD_NAME", "CLUSTER_NAME"} {
		if value, ok := os.LookupEnv(name); ok {
			process.Env = append(process.Env, name+"="+value)
		}
	}
	must(process.Start())
	ended := make(chan struct{})
	go func() {
		_ = process.Wait()
		_ = log.Close()
		close(ended)
	}()
	must(untilListening(listenOn, ended))

	channel, err := grpc.NewClient(grpcutils.URLToTarget(listenOn), DialOptions(WithTokenGenerator(tokens))...)
	must(err)
	context.AfterFunc(ctx, func() { _ = channel.Close() })
	return &program{
		NetworkServiceServer:    adapters.NewClientToServer(networkservice.NewNetworkServiceClient(channel)),
		MonitorConnectionServer: adapters.NewMonitorClientToServer(networkservice.NewMonitorConnectionClient(channel)),
		Registry: registry.NewServer(
			registryadapters.NetworkServiceClientToServer(registryapi.NewNetworkServiceRegistryClient(channel)),
			registryadapters.NetworkServiceEndpointClientToServer(registryapi.NewNetworkServiceEndpointRegistryClient(channel)),
		),
	}
}

func untilListening(listenOn *url.URL, ended <-chan struct{}) error {
	network, address := grpcutils.TargetToNetAddr(grpcutils.URLToTarget(listenOn))
	for range 1000 {
		select {
		case <-ended:
			return fmt.Errorf("the process for %s ended", listenOn)
		case <-time.After(10 * time.Millisecond):
		}
		if connection, err := net.Dial(network, address); err == nil {
			return connection.Close()
		}
	}
	return errors.New("nothing listens on " + listenOn.String())
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func init() {
	nsmgr.Supply = func(ctx context.Context, tokens token.GeneratorFunc, settings nsmgr.Settings) nsmgr.Nsmgr {
		if settings.Registry == nil {
			// Upstream's is its own registry then. Ours has always one beside it.
			settings.Registry = freeAddress()
			start(listeningOn(ctx, settings.Registry), "registry", tokens)
		}
		return start(ctx, "nsmgr", tokens,
			"NSM_NAME="+settings.Name,
			"NSM_DIAL_TIMEOUT="+settings.DialTimeout.String(),
			"NSM_FORWARDER_NETWORK_SERVICE_NAME="+settings.ForwarderService,
			"NSM_REGISTRY_URL="+settings.Registry.String(),
		)
	}
	memory.Supply = func(ctx context.Context, tokens token.GeneratorFunc, proxy *url.URL) registry.Registry {
		if proxy == nil {
			return start(ctx, "registry", tokens)
		}
		return start(ctx, "registry", tokens, "NSM_PROXY_REGISTRY_URL="+proxy.String())
	}
}

func freeAddress() *url.URL {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(err)
	must(listener.Close())
	return grpcutils.AddressToURL(listener.Addr())
}
