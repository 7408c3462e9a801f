package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/url"
	"time"

	"github.com/edwarnicke/grpcfd"
	"github.com/networkservicemesh/sdk/pkg/tools/grpcutils"
	"github.com/networkservicemesh/sdk/pkg/tools/log"
	"github.com/networkservicemesh/sdk/pkg/tools/log/logruslogger"
	"github.com/networkservicemesh/sdk/pkg/tools/spiffejwt"
	"github.com/networkservicemesh/sdk/pkg/tools/token"
	"github.com/sirupsen/logrus"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
)

// identityLimit is how long a process waits for its identity.
const identityLimit = 30 * time.Second

// Masks of the default policies, as upstream's programs name them.
var (
	commonPolicies   = []string{"etc/nsm/opa/common/.*.rego"}
	serverPolicies   = append(commonPolicies[:1:1], "etc/nsm/opa/server/.*.rego")
	clientPolicies   = append(commonPolicies[:1:1], "etc/nsm/opa/client/.*.rego")
	registryPolicies = append(serverPolicies[:2:2], "etc/nsm/opa/registry/.*.rego")
	registrantPolicy = append(clientPolicies[:2:2], "etc/nsm/opa/registry/.*.rego")
)

// process is what all roles have: a name, an identity, and how they call and are called.
type process struct {
	name           string
	dialTimeout    time.Duration
	requestTimeout time.Duration
	tokens         token.GeneratorFunc
	source         *workloadapi.X509Source
	// nil if nothing is recorded.
	recording *recording
}

func newProcess(ctx context.Context, role string) (*process, error) {
	// At this level alone the chains' tracing passes on all that calls carry along, descriptors too,
	// and needs no spans.
	logrus.SetLevel(logrus.InfoLevel)
	log.EnableTracing(true)
	life, err := durationSetting("MAX_TOKEN_LIFETIME", 10*time.Minute)
	if err != nil {
		return nil, err
	}
	dialTimeout, err := durationSetting("DIAL_TIMEOUT", 5*time.Second)
	if err != nil {
		return nil, err
	}
	requestTimeout, err := durationSetting("REQUEST_TIMEOUT", 15*time.Second)
	if err != nil {
		return nil, err
	}
	recording, err := startRecording(role)
	if err != nil {
		return nil, err
	}
	limited, cancel := context.WithTimeout(ctx, identityLimit)
	defer cancel()
	source, err := workloadapi.NewX509Source(limited)
	if err != nil {
		return nil, fmt.Errorf("no identity: %w", err)
	}
	svid, err := source.GetX509SVID()
	if err != nil {
		return nil, fmt.Errorf("no identity: %w", err)
	}
	logrus.Infof("%s is %s", role, svid.ID)
	return &process{
		name:           setting("NAME", role),
		dialTimeout:    dialTimeout,
		requestTimeout: requestTimeout,
		tokens:         spiffejwt.TokenGeneratorFunc(source, life),
		source:         source,
		recording:      recording,
	}, nil
}

func (p *process) close() {
	_ = p.source.Close()
}

// context adds the logger that the chains write to.
func (p *process) context(ctx context.Context) context.Context {
	return log.WithLog(ctx, logruslogger.New(ctx))
}

// dialOptions are those for calls to any process of the mesh.
func (p *process) dialOptions() []grpc.DialOption {
	config := tlsconfig.MTLSClientConfig(p.source, p.source, tlsconfig.AuthorizeAny())
	config.MinVersion = tls.VersionTLS12
	options := []grpc.DialOption{
		grpc.WithTransportCredentials(grpcfd.TransportCredentials(credentials.NewTLS(config))),
		grpc.WithDefaultCallOptions(
			grpc.WaitForReady(true),
			grpc.PerRPCCredentials(token.NewPerRPCCredentials(p.tokens)),
		),
		grpcfd.WithChainStreamInterceptor(),
		grpcfd.WithChainUnaryInterceptor(),
	}
	if p.recording != nil {
		options = append(options, grpc.WithStatsHandler(p.recording))
	}
	return options
}

// serve offers the same services at all these URLs and returns once they can be called.
func (p *process) serve(ctx context.Context, urls []*url.URL, register func(*grpc.Server)) <-chan error {
	failed := make(chan error, len(urls))
	for _, listenOn := range urls {
		config := tlsconfig.MTLSServerConfig(p.source, p.source, tlsconfig.AuthorizeAny())
		config.MinVersion = tls.VersionTLS12
		with := credentials.NewTLS(config)
		if listenOn.Scheme == "unix" {
			with = grpcfd.TransportCredentials(with)
		}
		options := []grpc.ServerOption{grpc.Creds(with)}
		if p.recording != nil {
			options = append(options, grpc.StatsHandler(p.recording))
		}
		server := grpc.NewServer(options...)
		register(server)
		errs := grpcutils.ListenAndServe(ctx, listenOn, server)
		go func() {
			for err := range errs {
				failed <- err
			}
		}()
	}
	return failed
}

// untilStopped waits for the stop, or for the first server that fails before it.
func untilStopped(ctx context.Context, failed <-chan error) error {
	select {
	case <-ctx.Done():
		return nil
	case err := <-failed:
		return errors.Join(errors.New("a server ended"), err)
	}
}
