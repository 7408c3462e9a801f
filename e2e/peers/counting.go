package main

import (
	"context"
	"strings"
	"sync/atomic"

	"github.com/golang/protobuf/ptypes/empty"
	"github.com/networkservicemesh/api/pkg/api/networkservice"
	"github.com/networkservicemesh/sdk/pkg/networkservice/core/next"
	"github.com/sirupsen/logrus"
	"google.golang.org/grpc"
)

// ids are those of all processes on the way, for a reader of the log: a refresh changes none.
func ids(connection *networkservice.Connection) string {
	var all []string
	for _, segment := range connection.GetPath().GetPathSegments() {
		all = append(all, segment.GetName()+"="+segment.GetId())
	}
	return strings.Join(all, " ")
}

// countingClient says of every Request how it went, refreshes too.
type countingClient struct {
	what     string
	requests atomic.Int64
}

func (c *countingClient) Request(
	ctx context.Context, request *networkservice.NetworkServiceRequest, options ...grpc.CallOption,
) (*networkservice.Connection, error) {
	number := c.requests.Add(1)
	connection, err := next.Client(ctx).Request(ctx, request, options...)
	if err != nil {
		logrus.Infof("%s: request %d failed: %v", c.what, number, err)
		return nil, err
	}
	logrus.Infof("%s: request %d answered: %s", c.what, number, ids(connection))
	return connection, nil
}

func (c *countingClient) Close(
	ctx context.Context, connection *networkservice.Connection, options ...grpc.CallOption,
) (*empty.Empty, error) {
	answer, err := next.Client(ctx).Close(ctx, connection, options...)
	logrus.Infof("%s: close of %s: %v", c.what, connection.GetId(), err)
	return answer, err
}

// countingServer says of every Request that came how it went.
type countingServer struct {
	what     string
	requests atomic.Int64
}

func (c *countingServer) Request(
	ctx context.Context, request *networkservice.NetworkServiceRequest,
) (*networkservice.Connection, error) {
	number := c.requests.Add(1)
	connection, err := next.Server(ctx).Request(ctx, request)
	if err != nil {
		logrus.Infof("%s: request %d failed: %v", c.what, number, err)
		return nil, err
	}
	logrus.Infof("%s: request %d answered: %s", c.what, number, ids(connection))
	return connection, nil
}

func (c *countingServer) Close(
	ctx context.Context, connection *networkservice.Connection,
) (*empty.Empty, error) {
	answer, err := next.Server(ctx).Close(ctx, connection)
	logrus.Infof("%s: close of %s: %v", c.what, connection.GetId(), err)
	return answer, err
}
