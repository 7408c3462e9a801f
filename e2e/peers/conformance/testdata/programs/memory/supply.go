package memory

import (
	"context"

	"github.com/networkservicemesh/sdk/pkg/registry"
	"github.com/networkservicemesh/sdk/pkg/tools/token"
)

// Supply makes registries, in place of the function that did.
var Supply func(ctx context.Context, tokens token.GeneratorFunc) registry.Registry

// NewServer supplies a registry.
func NewServer(ctx context.Context, tokens token.GeneratorFunc, _ ...Option) registry.Registry {
	return Supply(ctx, tokens)
}
