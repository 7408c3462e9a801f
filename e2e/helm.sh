#!/bin/bash
# Builds Helm unless the cache has it, and prints where the program is.
export CGO_ENABLED=0
exec "$(dirname "$0")/tool.sh" helm helm.sh/helm/v3/cmd/helm helm.sh/helm/v3
