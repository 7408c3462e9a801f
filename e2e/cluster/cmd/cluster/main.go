// Command cluster runs a real Kubernetes cluster on this machine, without Docker: a control
// plane and nodes in Linux namespaces. Run it with --help.
package main

import (
	"os"

	"nsm-e2e-cluster/internal/cli"
)

func main() {
	os.Exit(cli.Main(os.Args[1:], os.Stdout, os.Stderr))
}
