package main

import (
	"context"
	"fmt"

	"github.com/networkservicemesh/api/pkg/api/registry"
	registryclient "github.com/networkservicemesh/sdk/pkg/registry/chains/client"
	"github.com/sirupsen/logrus"
)

// runWatch says which endpoints of the services there are, and what becomes of them.
func runWatch(ctx context.Context, p *process) error {
	options, err := registryOptions(p)
	if err != nil {
		return err
	}
	client := registryclient.NewNetworkServiceEndpointRegistryClient(ctx, options...)
	stream, err := client.Find(ctx, &registry.NetworkServiceEndpointQuery{
		NetworkServiceEndpoint: &registry.NetworkServiceEndpoint{NetworkServiceNames: listSetting("SERVICE_NAMES")},
		Watch:                  true,
	})
	if err != nil {
		return fmt.Errorf("cannot watch: %w", err)
	}
	for {
		event, err := stream.Recv()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("the watch ended: %w", err)
		}
		word := "there is"
		if event.GetDeleted() {
			word = "gone is"
		}
		logrus.Infof("%s %s", word, event.GetNetworkServiceEndpoint().GetName())
	}
}
