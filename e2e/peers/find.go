package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/networkservicemesh/api/pkg/api/registry"
	registryclient "github.com/networkservicemesh/sdk/pkg/registry/chains/client"
	"github.com/sirupsen/logrus"
	"google.golang.org/protobuf/encoding/protojson"
)

// found is what a stream answers until it ends or, if it is a watch, until as many have come.
func found[T any](receive func() (T, error), name func(T) string, enough int) (string, error) {
	var names []string
	for enough == 0 || len(names) < enough {
		answer, err := receive()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return "", fmt.Errorf("cannot find: %w", err)
		}
		names = append(names, name(answer))
	}
	slices.Sort(names)
	return strings.Join(names, ","), nil
}

// runFind says which endpoints answer to each query of the list NSM_QUERIES, in JSON.
func runFind(ctx context.Context, p *process) error {
	options, err := registryOptions(p)
	if err != nil {
		return err
	}
	var queries []json.RawMessage
	if err := json.Unmarshal([]byte(setting("QUERIES", "[]")), &queries); err != nil {
		return fmt.Errorf("NSM_QUERIES: %w", err)
	}
	client := registryclient.NewNetworkServiceEndpointRegistryClient(ctx, options...)
	for number, text := range queries {
		wanted := new(registry.NetworkServiceEndpoint)
		if err := protojson.Unmarshal(text, wanted); err != nil {
			return fmt.Errorf("NSM_QUERIES: %w", err)
		}
		name := func(answer *registry.NetworkServiceEndpointResponse) string {
			return answer.GetNetworkServiceEndpoint().GetName()
		}
		query := &registry.NetworkServiceEndpointQuery{NetworkServiceEndpoint: wanted}
		stream, err := client.Find(ctx, query)
		if err != nil {
			return fmt.Errorf("cannot find: %w", err)
		}
		names, err := found(stream.Recv, name, 0)
		if err != nil {
			return err
		}
		// A watch tells of the same ones first.
		watching, stop := context.WithCancel(ctx)
		query.Watch = true
		watched := ""
		if count := len(strings.FieldsFunc(names, func(r rune) bool { return r == ',' })); count > 0 {
			stream, err := client.Find(watching, query)
			if err == nil {
				watched, err = found(stream.Recv, name, count)
			}
			if err != nil {
				stop()
				return err
			}
		}
		stop()
		logrus.Infof("query %d: %s; %s", number, names, watched)
	}
	logrus.Info("asked all")
	<-ctx.Done()
	return nil
}
