package sandbox

import (
	"context"

	"github.com/golang/protobuf/ptypes/empty"
	"github.com/networkservicemesh/api/pkg/api/networkservice"
	"github.com/networkservicemesh/api/pkg/api/networkservice/mechanisms/cls"
	"github.com/networkservicemesh/api/pkg/api/networkservice/mechanisms/kernel"
	"google.golang.org/grpc"

	"github.com/networkservicemesh/sdk/pkg/networkservice/core/next"
)

// kernelWithoutFile prefers a kernel interface and does not say where.
type kernelWithoutFile struct{}

// WithoutFile is used instead of an element that says where.
func WithoutFile(networkservice.NetworkServiceClient) networkservice.NetworkServiceClient {
	return kernelWithoutFile{}
}

func (kernelWithoutFile) Request(
	ctx context.Context, request *networkservice.NetworkServiceRequest, options ...grpc.CallOption,
) (*networkservice.Connection, error) {
	preference := &networkservice.Mechanism{Cls: cls.LOCAL, Type: kernel.MECHANISM}
	request.MechanismPreferences = append(request.MechanismPreferences, preference)
	return next.Client(ctx).Request(ctx, request, options...)
}

func (kernelWithoutFile) Close(
	ctx context.Context, connection *networkservice.Connection, options ...grpc.CallOption,
) (*empty.Empty, error) {
	return next.Client(ctx).Close(ctx, connection, options...)
}
