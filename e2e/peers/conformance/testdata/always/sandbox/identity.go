package sandbox

import (
	"context"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/networkservicemesh/sdk/pkg/tools/spiffejwt"
	"github.com/networkservicemesh/sdk/pkg/tools/token"
)

// fixed is the one identity of all that runs in this process. It is not renewed, so that no goroutine
// is left when a test looks for some.
type fixed struct {
	svid    *x509svid.SVID
	bundles *x509bundle.Set
}

func (f *fixed) GetX509SVID() (*x509svid.SVID, error) {
	return f.svid, nil
}

var identity = sync.OnceValue(func() *fixed {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	answer, err := workloadapi.FetchX509Context(ctx)
	if err != nil {
		panic(err)
	}
	return &fixed{svid: answer.DefaultSVID(), bundles: answer.Bundles}
})

func clientCredentials() credentials.TransportCredentials {
	own := identity()
	return credentials.NewTLS(tlsconfig.MTLSClientConfig(own, own.bundles, tlsconfig.AuthorizeAny()))
}

func serverCredentials() credentials.TransportCredentials {
	own := identity()
	return credentials.NewTLS(tlsconfig.MTLSServerConfig(own, own.bundles, tlsconfig.AuthorizeAny()))
}

// Mutual makes a server one that callers of the mesh can use.
func Mutual() grpc.ServerOption {
	return grpc.Creds(serverCredentials())
}

// Instead is an option that does nothing, in place of another one.
func Instead(grpc.DialOption) grpc.DialOption {
	return grpc.EmptyDialOption{}
}

// tokens are those that programs make.
func tokens(life time.Duration) token.GeneratorFunc {
	return func(peer credentials.AuthInfo) (string, time.Time, error) {
		return spiffejwt.TokenGeneratorFunc(identity(), life)(peer)
	}
}
