package main

import (
	"context"
	"encoding/hex"
	"fmt"
	"os"
	"strings"
	"sync"

	"github.com/sirupsen/logrus"
	"google.golang.org/grpc/stats"
	"google.golang.org/protobuf/proto"
)

// recording writes what this process says to others, a line a message, to the file of NSM_RECORD.
// The Rust test `wire` reads it.
type recording struct {
	role  string
	mutex sync.Mutex
	file  *os.File
}

// startRecording is nil without the setting.
func startRecording(role string) (*recording, error) {
	path := setting("RECORD", "")
	if path == "" {
		return nil, nil
	}
	file, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, fmt.Errorf("NSM_RECORD: %w", err)
	}
	return &recording{role: role, file: file}, nil
}

type methodKey struct{}

// TagRPC keeps the name of the method.
func (r *recording) TagRPC(ctx context.Context, info *stats.RPCTagInfo) context.Context {
	return context.WithValue(ctx, methodKey{}, strings.TrimPrefix(info.FullMethodName, "/"))
}

// HandleRPC records what goes out.
func (r *recording) HandleRPC(ctx context.Context, event stats.RPCStats) {
	switch event := event.(type) {
	case *stats.OutPayload:
		if message, ok := event.Payload.(proto.Message); ok {
			bytes, err := proto.MarshalOptions{Deterministic: true}.Marshal(message)
			if err != nil {
				logrus.Errorf("not recorded: %v", err)
				return
			}
			r.write(ctx, event.Client, string(proto.MessageName(message)), hex.EncodeToString(bytes))
		}
	case *stats.OutHeader:
		for _, path := range event.Header.Get("path") {
			r.write(ctx, event.Client, "path", path)
		}
	}
}

func (r *recording) write(ctx context.Context, asks bool, name, text string) {
	word := "answers"
	if asks {
		word = "asks"
	}
	method, _ := ctx.Value(methodKey{}).(string)
	r.mutex.Lock()
	defer r.mutex.Unlock()
	if _, err := fmt.Fprintf(r.file, "%s %s:%s:%s %s\n", name, r.role, word, method, text); err != nil {
		logrus.Errorf("not recorded: %v", err)
	}
}

// TagConn adds nothing.
func (r *recording) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context {
	return ctx
}

// HandleConn has nothing to record.
func (r *recording) HandleConn(context.Context, stats.ConnStats) {}
