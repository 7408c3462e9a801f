package main

import (
	"context"
	"fmt"
	"time"

	"github.com/networkservicemesh/api/pkg/api/networkservice"
	"github.com/networkservicemesh/api/pkg/api/networkservice/mechanisms/kernel"
	kernelheal "github.com/networkservicemesh/sdk-kernel/pkg/kernel/tools/heal"
	"github.com/networkservicemesh/sdk/pkg/networkservice/chains/client"
	"github.com/networkservicemesh/sdk/pkg/networkservice/common/authorize"
	"github.com/networkservicemesh/sdk/pkg/networkservice/common/clientinfo"
	"github.com/networkservicemesh/sdk/pkg/networkservice/common/excludedprefixes"
	"github.com/networkservicemesh/sdk/pkg/networkservice/common/heal"
	"github.com/networkservicemesh/sdk/pkg/networkservice/common/mechanisms"
	kernelmechanism "github.com/networkservicemesh/sdk/pkg/networkservice/common/mechanisms/kernel"
	"github.com/networkservicemesh/sdk/pkg/networkservice/common/mechanisms/sendfd"
	"github.com/networkservicemesh/sdk/pkg/networkservice/common/retry"
	"github.com/networkservicemesh/sdk/pkg/networkservice/common/upstreamrefresh"
	"github.com/networkservicemesh/sdk/pkg/tools/nsurl"
	"github.com/sirupsen/logrus"
)

// Pace and limit of the pings that tell whether a connection is alive, as upstream's client has them.
const (
	livenessInterval = 200 * time.Millisecond
	livenessTimeout  = time.Second
)

func runClient(ctx context.Context, p *process) error {
	connectTo, err := urlSetting("CONNECT_TO")
	if err != nil {
		return err
	}
	services, err := urlsSetting("NETWORK_SERVICES")
	if err != nil {
		return err
	}
	// The chain lives until the connections are closed, which is after the stop.
	living, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	chain := client.NewClient(living,
		client.WithName(p.name),
		client.WithClientURL(connectTo),
		client.WithDialOptions(p.dialOptions()...),
		client.WithDialTimeout(p.dialTimeout),
		client.WithAuthorizeClient(authorize.NewClient(authorize.WithPolicies(clientPolicies...))),
		client.WithHealClient(heal.NewClient(living,
			heal.WithLivenessCheck(kernelheal.KernelLivenessCheck),
			heal.WithLivenessCheckInterval(livenessInterval),
			heal.WithLivenessCheckTimeout(livenessTimeout),
		)),
		client.WithAdditionalFunctionality(
			&countingClient{what: p.name},
			clientinfo.NewClient(),
			upstreamrefresh.NewClient(living),
			mechanisms.NewClient(map[string]networkservice.NetworkServiceClient{
				kernel.MECHANISM: kernelmechanism.NewClient(),
			}),
			sendfd.NewClient(),
			excludedprefixes.NewClient(),
		),
	)
	retrying := retry.NewClient(chain, retry.WithTryTimeout(p.requestTimeout))
	var open []*networkservice.Connection
	for number, service := range services {
		wanted := (*nsurl.NSURL)(service)
		connection, err := retrying.Request(ctx, &networkservice.NetworkServiceRequest{
			Connection: &networkservice.Connection{
				Id:             fmt.Sprintf("%s-%d", p.name, number),
				NetworkService: wanted.NetworkService(),
				Labels:         wanted.Labels(),
			},
			MechanismPreferences: []*networkservice.Mechanism{wanted.Mechanism()},
		})
		if err != nil {
			return fmt.Errorf("cannot connect to %s: %w", service, err)
		}
		logrus.Infof("connected to %s", connection.GetNetworkServiceEndpointName())
		open = append(open, connection)
	}
	<-ctx.Done()
	for _, connection := range open {
		limited, cancel := context.WithTimeout(living, p.requestTimeout)
		_, err := chain.Close(limited, connection)
		cancel()
		if err != nil {
			return fmt.Errorf("cannot close %s: %w", connection.GetId(), err)
		}
		logrus.Infof("closed %s", connection.GetId())
	}
	return nil
}
