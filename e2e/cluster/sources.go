// Package sources holds the text of the programs a cluster runs, so that the driver can build
// them wherever it was started: it never has to find its own checkout.
package sources

import "embed"

// Files is this module cut down to what the cluster's programs are built from.
//
//go:embed go.mod go.sum kube pause
var Files embed.FS
