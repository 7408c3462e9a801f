package memory

import (
	"context"
	"net/url"

	"github.com/networkservicemesh/sdk/pkg/registry"
	"github.com/networkservicemesh/sdk/pkg/tools/token"
)

// Supply makes registries, in place of the function that did. The proxy, which is nil without one, is
// asked for names of other domains.
var Supply func(ctx context.Context, tokens token.GeneratorFunc, proxy *url.URL) registry.Registry

// NewServer supplies a registry.
func NewServer(ctx context.Context, tokens token.GeneratorFunc, options ...Option) registry.Registry {
	var read serverOptions
	for _, option := range options {
		option(&read)
	}
	return Supply(ctx, tokens, read.proxyRegistryURL)
}
