// Command spire is SPIRE's server and its agent in one binary: the first argument says which, those
// after it are upstream's. Both link the same packages, so one binary is built and cached.
package main

import (
	"context"
	"fmt"
	"os"

	agent "github.com/spiffe/spire/cmd/spire-agent/cli"
	server "github.com/spiffe/spire/cmd/spire-server/cli"
)

func main() {
	if len(os.Args) > 1 {
		switch name, arguments := os.Args[1], os.Args[2:]; name {
		case "server":
			os.Exit(new(server.CLI).Run(context.Background(), arguments))
		case "agent":
			os.Exit(new(agent.CLI).Run(context.Background(), arguments))
		}
	}
	fmt.Fprintln(os.Stderr, "spire: say which program; use `spire server ...` or `spire agent ...`")
	os.Exit(2)
}
