package main

import (
	"context"
	"fmt"

	"github.com/golang/protobuf/ptypes/empty"
	"github.com/networkservicemesh/api/pkg/api/networkservice"
	"github.com/networkservicemesh/api/pkg/api/networkservice/mechanisms/cls"
	"github.com/networkservicemesh/api/pkg/api/networkservice/mechanisms/kernel"
	"github.com/networkservicemesh/api/pkg/api/registry"
	"github.com/networkservicemesh/sdk/pkg/networkservice/chains/client"
	"github.com/networkservicemesh/sdk/pkg/networkservice/chains/endpoint"
	"github.com/networkservicemesh/sdk/pkg/networkservice/common/authorize"
	"github.com/networkservicemesh/sdk/pkg/networkservice/common/connect"
	"github.com/networkservicemesh/sdk/pkg/networkservice/common/discover"
	"github.com/networkservicemesh/sdk/pkg/networkservice/common/mechanisms"
	"github.com/networkservicemesh/sdk/pkg/networkservice/common/mechanisms/recvfd"
	"github.com/networkservicemesh/sdk/pkg/networkservice/common/mechanisms/sendfd"
	"github.com/networkservicemesh/sdk/pkg/networkservice/common/mechanismtranslation"
	"github.com/networkservicemesh/sdk/pkg/networkservice/common/null"
	"github.com/networkservicemesh/sdk/pkg/networkservice/common/roundrobin"
	"github.com/networkservicemesh/sdk/pkg/networkservice/core/next"
	registryclient "github.com/networkservicemesh/sdk/pkg/registry/chains/client"
	registryrecvfd "github.com/networkservicemesh/sdk/pkg/registry/common/recvfd"
	registrysendfd "github.com/networkservicemesh/sdk/pkg/registry/common/sendfd"
	"github.com/sirupsen/logrus"
	"google.golang.org/grpc"
)

// kernelPreference asks the endpoint for a kernel interface.
type kernelPreference struct{}

func (kernelPreference) Request(
	ctx context.Context, request *networkservice.NetworkServiceRequest, options ...grpc.CallOption,
) (*networkservice.Connection, error) {
	preference := &networkservice.Mechanism{Cls: cls.LOCAL, Type: kernel.MECHANISM, Parameters: map[string]string{}}
	request.MechanismPreferences = append(request.MechanismPreferences, preference)
	return next.Client(ctx).Request(ctx, request, options...)
}

func (kernelPreference) Close(
	ctx context.Context, connection *networkservice.Connection, options ...grpc.CallOption,
) (*empty.Empty, error) {
	return next.Client(ctx).Close(ctx, connection, options...)
}

// runForwarder is a forwarder on one node that lets Requests through and makes no links.
func runForwarder(ctx context.Context, p *process) error {
	listenOn, err := urlsSetting("LISTEN_ON")
	if err != nil {
		return err
	}
	options, err := registryOptions(p)
	if err != nil {
		return err
	}
	options = append(options, registryclient.WithNSEAdditionalFunctionality(
		registryrecvfd.NewNetworkServiceEndpointRegistryClient(),
		registrysendfd.NewNetworkServiceEndpointRegistryClient(),
	))
	services := registryclient.NewNetworkServiceRegistryClient(ctx, options...)
	endpoints := registryclient.NewNetworkServiceEndpointRegistryClient(ctx, options...)
	server := endpoint.NewServer(ctx, p.tokens,
		endpoint.WithName(p.name),
		endpoint.WithAuthorizeServer(authorize.NewServer(authorize.WithPolicies(serverPolicies...))),
		endpoint.WithAdditionalFunctionality(
			&countingServer{what: p.name},
			recvfd.NewServer(),
			sendfd.NewServer(),
			discover.NewServer(services, endpoints),
			roundrobin.NewServer(),
			mechanisms.NewServer(map[string]networkservice.NetworkServiceServer{
				kernel.MECHANISM: null.NewServer(),
			}),
			connect.NewServer(client.NewClient(ctx,
				client.WithName(p.name),
				client.WithoutRefresh(),
				client.WithDialOptions(append(p.dialOptions(), grpc.WithBlock())...),
				client.WithDialTimeout(p.dialTimeout),
				client.WithAdditionalFunctionality(
					mechanismtranslation.NewClient(),
					kernelPreference{},
					recvfd.NewClient(),
					sendfd.NewClient(),
				),
			)),
		),
	)
	failed := p.serve(ctx, listenOn, server.Register)
	service := setting("FORWARDER_NETWORK_SERVICE_NAME", "forwarder")
	labels := mapSetting("LABELS")
	registered, err := endpoints.Register(ctx, &registry.NetworkServiceEndpoint{
		Name:                 p.name,
		NetworkServiceNames:  []string{service},
		NetworkServiceLabels: map[string]*registry.NetworkServiceLabels{service: {Labels: labels}},
		Url:                  listenOn[0].String(),
	})
	if err != nil {
		return fmt.Errorf("cannot register %s: %w", p.name, err)
	}
	logrus.Infof("registered %s until %s", registered.GetName(), registered.GetExpirationTime().AsTime())
	return untilStopped(ctx, failed)
}
