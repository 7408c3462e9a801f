package nsmgr

import (
	"context"
	"net/url"
	"time"

	"github.com/networkservicemesh/sdk/pkg/tools/token"
)

// Settings are what the options say of an nsmgr.
type Settings struct {
	Name, ForwarderService string
	// nil if it is to be its own registry.
	Registry    *url.URL
	DialTimeout time.Duration
}

// Supply makes nsmgrs, in place of the function that did.
var Supply func(ctx context.Context, tokens token.GeneratorFunc, settings Settings) Nsmgr

// NewServer supplies an nsmgr.
func NewServer(ctx context.Context, tokens token.GeneratorFunc, options ...Option) Nsmgr {
	read := serverOptions{forwarderServiceName: "forwarder", dialTimeout: 15 * time.Second, name: "nsmgr"}
	for _, option := range options {
		option(&read)
	}
	return Supply(ctx, tokens, Settings{
		Name:             read.name,
		ForwarderService: read.forwarderServiceName,
		Registry:         read.regURL,
		DialTimeout:      read.dialTimeout,
	})
}
