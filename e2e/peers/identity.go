package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
)

// audience is whom the tokens of this program are meant for.
const audience = "spiffe://host.nsm/audience"

// identity is what SPIFFE's own client makes of a Workload API.
type identity struct {
	x509    *workloadapi.X509Source
	jwt     *workloadapi.JWTSource
	bundles *workloadapi.BundleSource
	// old is a connection that was made at the start, both its ends.
	old [2]net.Conn
}

// runIdentity uses all of the Workload API, and again after each change, and says what it saw.
func runIdentity(ctx context.Context, p *process) error {
	limited, cancel := context.WithTimeout(ctx, identityLimit)
	defer cancel()
	tokens, err := workloadapi.NewJWTSource(limited)
	if err != nil {
		return fmt.Errorf("no source of JWT-SVIDs: %w", err)
	}
	defer func() { _ = tokens.Close() }()
	bundles, err := workloadapi.NewBundleSource(limited)
	if err != nil {
		return fmt.Errorf("no source of bundles: %w", err)
	}
	defer func() { _ = bundles.Close() }()
	used := &identity{x509: p.source, jwt: tokens, bundles: bundles}
	if used.old, err = used.connect(ctx); err != nil {
		return err
	}
	defer func() { _ = errors.Join(used.old[0].Close(), used.old[1].Close()) }()
	for {
		if err := used.use(ctx); err != nil && ctx.Err() == nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-used.x509.Updated():
		case <-bundles.Updated():
		case <-tokens.Updated():
		}
	}
}

// use does everything once and says the number of CAs and of keys for tokens.
func (i *identity) use(ctx context.Context) error {
	svid, err := i.x509.GetX509SVID()
	if err != nil {
		return err
	}
	domain := svid.ID.TrustDomain()
	if err := i.useTokens(ctx, svid.ID); err != nil {
		return err
	}
	cas, err := i.bundles.GetX509BundleForTrustDomain(domain)
	if err != nil {
		return err
	}
	keys, err := i.bundles.GetJWTBundleForTrustDomain(domain)
	if err != nil {
		return err
	}
	fresh, err := i.connect(ctx)
	if err != nil {
		return fmt.Errorf("a new connection: %w", err)
	}
	defer func() { _ = errors.Join(fresh[0].Close(), fresh[1].Close()) }()
	if err := pass(fresh); err != nil {
		return fmt.Errorf("a new connection: %w", err)
	}
	if err := pass(i.old); err != nil {
		return fmt.Errorf("the connection from the start: %w", err)
	}
	logrus.Infof("all holds with %d CAs and %d keys", len(cas.X509Authorities()), len(keys.JWTAuthorities()))
	return nil
}

// useTokens has a token made and looked into, here and by the Workload API.
func (i *identity) useTokens(ctx context.Context, id spiffeid.ID) error {
	svid, err := i.jwt.FetchJWTSVID(ctx, jwtsvid.Params{Audience: audience, Subject: id})
	if err != nil {
		return fmt.Errorf("no token: %w", err)
	}
	if svid.ID != id {
		return fmt.Errorf("the token is of %s instead of %s", svid.ID, id)
	}
	text := svid.Marshal()
	if _, err := jwtsvid.ParseAndValidate(text, i.jwt, []string{audience}); err != nil {
		return fmt.Errorf("by the source's keys: %w", err)
	}
	if _, err := jwtsvid.ParseAndValidate(text, i.bundles, []string{audience}); err != nil {
		return fmt.Errorf("by the bundle's keys: %w", err)
	}
	if _, err := jwtsvid.ParseAndValidate(text, i.jwt, []string{"another"}); err == nil {
		return errors.New("the token holds for another audience")
	}
	if _, err := workloadapi.ValidateJWTSVID(ctx, text, audience); err != nil {
		return fmt.Errorf("by the Workload API: %w", err)
	}
	if _, err := workloadapi.ValidateJWTSVID(ctx, text, "another"); err == nil {
		return errors.New("the Workload API takes the token for another audience")
	}
	return nil
}

// connect makes a connection with mutual TLS between two ends that are both this program.
func (i *identity) connect(ctx context.Context) (ends [2]net.Conn, err error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	here, there := net.Pipe()
	client := tls.Client(here, tlsconfig.MTLSClientConfig(i.x509, i.x509, tlsconfig.AuthorizeAny()))
	server := tls.Server(there, tlsconfig.MTLSServerConfig(i.x509, i.x509, tlsconfig.AuthorizeAny()))
	served := make(chan error, 1)
	go func() { served <- server.HandshakeContext(ctx) }()
	called := client.HandshakeContext(ctx)
	return [2]net.Conn{client, server}, errors.Join(called, <-served)
}

// pass sends a byte through a connection.
func pass(ends [2]net.Conn) error {
	sent := make(chan error, 1)
	go func() {
		_, err := ends[0].Write([]byte{1})
		sent <- err
	}()
	_, err := ends[1].Read(make([]byte, 1))
	return errors.Join(err, <-sent)
}
