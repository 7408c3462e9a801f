package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"fmt"
	"time"

	"github.com/golang-jwt/jwt/v4"
	"github.com/networkservicemesh/sdk/pkg/tools/spiffejwt"
	"github.com/networkservicemesh/sdk/pkg/tools/token"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"google.golang.org/grpc/credentials"
)

// wrongTokens are those that no peer may take, by the values of NSM_WRONG_TOKENS.
var wrongTokens = map[string]func(*jwt.RegisteredClaims){
	"expired": func(claims *jwt.RegisteredClaims) {
		claims.ExpiresAt = jwt.NewNumericDate(time.Now().Add(-time.Minute))
	},
	"audience": func(claims *jwt.RegisteredClaims) {
		claims.Audience = []string{"spiffe://host.nsm/host/uid/0/elsewhere"}
	},
	"subject": func(claims *jwt.RegisteredClaims) { claims.Subject = "spiffe://host.nsm/host/uid/0/another" },
	"key":     nil,
}

// tokens makes those of a process: right ones, unless a test asks for others.
func tokens(source *workloadapi.X509Source, life time.Duration) (token.GeneratorFunc, error) {
	right := spiffejwt.TokenGeneratorFunc(source, life)
	wrong := setting("WRONG_TOKENS", "")
	if wrong == "" {
		return right, nil
	}
	change, ok := wrongTokens[wrong]
	if !ok {
		return nil, fmt.Errorf("NSM_WRONG_TOKENS=%q is not known", wrong)
	}
	strange, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	return func(peer credentials.AuthInfo) (string, time.Time, error) {
		text, expires, err := right(peer)
		if err != nil {
			return "", expires, err
		}
		claims := new(jwt.RegisteredClaims)
		if _, _, err := jwt.NewParser().ParseUnverified(text, claims); err != nil {
			return "", expires, err
		}
		key := strange
		if change != nil {
			change(claims)
			svid, err := source.GetX509SVID()
			if err != nil {
				return "", expires, err
			}
			key = svid.PrivateKey.(*ecdsa.PrivateKey)
		}
		text, err = jwt.NewWithClaims(jwt.SigningMethodES256, claims).SignedString(key)
		return text, expires, err
	}, nil
}
