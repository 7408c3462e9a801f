// Command peers runs a process of Network Service Mesh composed of upstream's own packages: the other
// side in tests of what goes over the wire. It is configured as upstream's programs are, and made for
// tests only.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
)

// roles are what the program can be.
var roles = map[string]func(context.Context, *process) error{
	"registry":  runRegistry,
	"nsmgr":     runNsmgr,
	"forwarder": runForwarder,
	"nse":       runEndpoint,
	"nsc":       runClient,
	"watch":     runWatch,
	"identity":  runIdentity,
	"find":      runFind,
}

func run(arguments []string) error {
	names := make([]string, 0, len(roles))
	for name := range roles {
		names = append(names, name)
	}
	slices.Sort(names)
	if len(arguments) != 1 || roles[arguments[0]] == nil {
		return fmt.Errorf("usage: peers %s", strings.Join(names, "|"))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	process, err := newProcess(ctx, arguments[0])
	if err != nil {
		return err
	}
	defer process.close()
	return roles[arguments[0]](process.context(ctx), process)
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "peers:", err)
		os.Exit(1)
	}
}
