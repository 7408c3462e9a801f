package main

import (
	"context"
	"fmt"

	"github.com/networkservicemesh/api/pkg/api/networkservice"
	"github.com/networkservicemesh/api/pkg/api/networkservice/mechanisms/kernel"
	"github.com/networkservicemesh/api/pkg/api/networkservice/mechanisms/noop"
	"github.com/networkservicemesh/api/pkg/api/registry"
	"github.com/networkservicemesh/sdk/pkg/networkservice/chains/endpoint"
	"github.com/networkservicemesh/sdk/pkg/networkservice/common/authorize"
	"github.com/networkservicemesh/sdk/pkg/networkservice/common/mechanisms"
	kernelmechanism "github.com/networkservicemesh/sdk/pkg/networkservice/common/mechanisms/kernel"
	"github.com/networkservicemesh/sdk/pkg/networkservice/common/mechanisms/sendfd"
	"github.com/networkservicemesh/sdk/pkg/networkservice/common/null"
	"github.com/networkservicemesh/sdk/pkg/networkservice/ipam/groupipam"
	registryclient "github.com/networkservicemesh/sdk/pkg/registry/chains/client"
	registryauthorize "github.com/networkservicemesh/sdk/pkg/registry/common/authorize"
	"github.com/networkservicemesh/sdk/pkg/registry/common/clientinfo"
	registrysendfd "github.com/networkservicemesh/sdk/pkg/registry/common/sendfd"
	"github.com/sirupsen/logrus"
)

// registryOptions are those of everybody that registers with or asks the node's nsmgr.
func registryOptions(p *process) ([]registryclient.Option, error) {
	connectTo, err := urlSetting("CONNECT_TO")
	if err != nil {
		return nil, err
	}
	policies := registryauthorize.WithPolicies(registrantPolicy...)
	return []registryclient.Option{
		registryclient.WithClientURL(connectTo),
		registryclient.WithDialOptions(p.dialOptions()...),
		registryclient.WithDialTimeout(p.dialTimeout),
		registryclient.WithAuthorizeNSRegistryClient(registryauthorize.NewNetworkServiceRegistryClient(policies)),
		registryclient.WithAuthorizeNSERegistryClient(
			registryauthorize.NewNetworkServiceEndpointRegistryClient(policies),
		),
		registryclient.WithNSEAdditionalFunctionality(
			clientinfo.NewNetworkServiceEndpointRegistryClient(),
			registrysendfd.NewNetworkServiceEndpointRegistryClient(),
		),
	}, nil
}

func runEndpoint(ctx context.Context, p *process) error {
	listenOn, err := urlsSetting("LISTEN_ON")
	if err != nil {
		return err
	}
	prefixes, err := prefixesSetting("CIDR_PREFIX")
	if err != nil {
		return err
	}
	options, err := registryOptions(p)
	if err != nil {
		return err
	}
	// All lives until the registration is taken back, which is after the stop and needs the socket.
	living, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	server := endpoint.NewServer(living, p.tokens,
		endpoint.WithName(p.name),
		endpoint.WithAuthorizeServer(authorize.NewServer(authorize.WithPolicies(serverPolicies...))),
		endpoint.WithAdditionalFunctionality(
			&countingServer{what: "endpoint"},
			groupipam.NewServer(prefixes),
			mechanisms.NewServer(map[string]networkservice.NetworkServiceServer{
				kernel.MECHANISM: kernelmechanism.NewServer(),
				noop.MECHANISM:   null.NewServer(),
			}),
			sendfd.NewServer(),
		),
	)
	// Before the registration, which passes the socket on.
	failed := p.serve(living, listenOn, server.Register)
	services, labels := listSetting("SERVICE_NAMES"), mapSetting("LABELS")
	serviceRegistry := registryclient.NewNetworkServiceRegistryClient(living, options...)
	entry := &registry.NetworkServiceEndpoint{
		Name:                 p.name,
		NetworkServiceNames:  services,
		NetworkServiceLabels: map[string]*registry.NetworkServiceLabels{},
		Url:                  listenOn[0].String(),
	}
	for _, service := range services {
		entry.NetworkServiceLabels[service] = &registry.NetworkServiceLabels{Labels: labels}
		named := &registry.NetworkService{Name: service, Payload: setting("PAYLOAD", "ETHERNET")}
		if _, err := serviceRegistry.Register(ctx, named); err != nil {
			return fmt.Errorf("cannot register %s: %w", service, err)
		}
	}
	endpointRegistry := registryclient.NewNetworkServiceEndpointRegistryClient(living, options...)
	registered, err := endpointRegistry.Register(ctx, entry)
	if err != nil {
		return fmt.Errorf("cannot register %s: %w", p.name, err)
	}
	logrus.Infof("registered %s until %s", registered.GetName(), registered.GetExpirationTime().AsTime())
	err = untilStopped(ctx, failed)
	unregister, done := context.WithTimeout(living, p.requestTimeout)
	defer done()
	if _, err := endpointRegistry.Unregister(unregister, registered); err != nil {
		return fmt.Errorf("cannot unregister %s: %w", p.name, err)
	}
	logrus.Infof("unregistered %s", p.name)
	return err
}
