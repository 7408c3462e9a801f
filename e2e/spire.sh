#!/bin/bash
# Builds SPIRE from the module e2e/spire unless the cache has it, and prints where the program is.
# Found again by the content it was made from, as the local Kubernetes is; the first time takes some
# ten minutes.
set -euo pipefail
cd "$(dirname "$0")/spire"

version=$(awk '$1 == "require" { print $3; exit }' go.mod)
sources=$(find . -type f | LC_ALL=C sort)
hash=$({ go version; sha256sum $sources; } | sha256sum | cut -c1-12)
cache=${NSM_CACHE:-$HOME/.cache/nsm-e2e}
made=$cache/spire-$version-$hash

mkdir -p "$cache"
exec 9< "$cache"
flock 9
# Whoever asked meanwhile finds what this one made.
if [ ! -x "$made/spire" ]; then
  echo "spire: building SPIRE $version; this takes minutes" >&2
  rm -rf "$made.building"
  trap 'rm -rf "$made.building"' EXIT
  # Its database is SQLite, which is C.
  CGO_ENABLED=1 go build -trimpath -ldflags='-s -w' -o "$made.building/spire" . >&2
  mv "$made.building" "$made"
fi
echo "$made/spire"
