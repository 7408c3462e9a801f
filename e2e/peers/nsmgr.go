package main

import (
	"context"
	"fmt"
	"net"
	"net/url"

	"github.com/edwarnicke/genericsync"
	"github.com/networkservicemesh/sdk/pkg/networkservice/chains/nsmgr"
	"github.com/networkservicemesh/sdk/pkg/networkservice/common/authorize"
	registryauthorize "github.com/networkservicemesh/sdk/pkg/registry/common/authorize"
	"github.com/networkservicemesh/sdk/pkg/tools/listenonurl"
	monitorauthorize "github.com/networkservicemesh/sdk/pkg/tools/monitorconnection/authorize"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc"
)

// publicURL is where other nodes reach this one: its TCP address, or else the first that there is.
func publicURL(urls []*url.URL) (*url.URL, error) {
	for _, candidate := range urls {
		if candidate.Scheme == "tcp" {
			addresses, err := net.InterfaceAddrs()
			if err != nil {
				return nil, fmt.Errorf("addresses of this node: %w", err)
			}
			return listenonurl.GetPublicURL(addresses, candidate), nil
		}
	}
	return urls[0], nil
}

func runNsmgr(ctx context.Context, p *process) error {
	listenOn, err := urlsSetting("LISTEN_ON")
	if err != nil {
		return err
	}
	registryURL, err := urlSetting("REGISTRY_URL")
	if err != nil {
		return err
	}
	public, err := publicURL(listenOn)
	if err != nil {
		return err
	}
	// Who asked for a connection is who may watch it.
	connections := new(genericsync.Map[spiffeid.ID, *genericsync.Map[string, struct{}]])
	servers := registryauthorize.WithPolicies(registryPolicies...)
	clients := registryauthorize.WithPolicies(registrantPolicy...)
	manager := nsmgr.NewServer(ctx, p.tokens,
		nsmgr.WithName(p.name),
		nsmgr.WithURL(public.String()),
		nsmgr.WithRegistry(registryURL),
		nsmgr.WithForwarderServiceName(setting("FORWARDER_NETWORK_SERVICE_NAME", "forwarder")),
		nsmgr.WithDefaultExpiration(defaultExpiration),
		nsmgr.WithDialTimeout(p.dialTimeout),
		nsmgr.WithDialOptions(append(p.dialOptions(), grpc.WithBlock())...),
		nsmgr.WithAuthorizeServer(authorize.NewServer(
			authorize.WithPolicies(serverPolicies...), authorize.WithSpiffeIDConnectionMap(connections),
		)),
		nsmgr.WithAuthorizeMonitorConnectionServer(monitorauthorize.NewMonitorConnectionServer(
			monitorauthorize.WithSpiffeIDConnectionMap(connections),
		)),
		nsmgr.WithAuthorizeNSRegistryServer(registryauthorize.NewNetworkServiceRegistryServer(servers)),
		nsmgr.WithAuthorizeNSERegistryServer(registryauthorize.NewNetworkServiceEndpointRegistryServer(servers)),
		nsmgr.WithAuthorizeNSRegistryClient(registryauthorize.NewNetworkServiceRegistryClient(clients)),
		nsmgr.WithAuthorizeNSERegistryClient(registryauthorize.NewNetworkServiceEndpointRegistryClient(clients)),
	)
	return untilStopped(ctx, p.serve(ctx, listenOn, manager.Register))
}
