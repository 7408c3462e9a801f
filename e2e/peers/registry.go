package main

import (
	"context"
	"time"

	"github.com/networkservicemesh/sdk/pkg/registry/chains/memory"
	"github.com/networkservicemesh/sdk/pkg/registry/common/authorize"
)

// defaultExpiration is how long a registration counts that names no earlier end.
const defaultExpiration = time.Minute

func runRegistry(ctx context.Context, p *process) error {
	listenOn, err := urlsSetting("LISTEN_ON")
	if err != nil {
		return err
	}
	servers, clients := authorize.WithPolicies(registryPolicies...), authorize.WithPolicies(registrantPolicy...)
	registry := memory.NewServer(ctx, p.tokens,
		memory.WithAuthorizeNSRegistryServer(authorize.NewNetworkServiceRegistryServer(servers)),
		memory.WithAuthorizeNSERegistryServer(authorize.NewNetworkServiceEndpointRegistryServer(servers)),
		memory.WithAuthorizeNSRegistryClient(authorize.NewNetworkServiceRegistryClient(clients)),
		memory.WithAuthorizeNSERegistryClient(authorize.NewNetworkServiceEndpointRegistryClient(clients)),
		memory.WithDefaultExpiration(defaultExpiration),
		memory.WithDialOptions(p.dialOptions()...),
	)
	return untilStopped(ctx, p.serve(ctx, listenOn, registry.Register))
}
