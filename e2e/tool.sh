#!/bin/bash
# tool.sh MODULE PACKAGE VERSION_OF: builds a program from the Go module in e2e/MODULE unless the cache has it,
# and prints where it is. Found again by the content it was made from, as the local Kubernetes is.
set -euo pipefail
name=$1 package=$2 module=$3
cd "$(dirname "$0")/$name"

version=$(awk -v module="$module" '{ sub(/^require /, "") } $1 == module { print $2; exit }' go.mod)
sources=$(find . -type f | LC_ALL=C sort)
hash=$({ go version; sha256sum $sources; } | sha256sum | cut -c1-12)
cache=${NSM_CACHE:-$HOME/.cache/nsm-e2e}
made=$cache/$name-$version-$hash

mkdir -p "$cache"
exec 9< "$cache"
flock 9
# Whoever asked meanwhile finds what this one made.
if [ ! -x "$made/$name" ]; then
  echo "$name: building $module $version; this takes minutes" >&2
  rm -rf "$made.building"
  trap 'rm -rf "$made.building"' EXIT
  go build -trimpath -ldflags='-s -w' -o "$made.building/$name" "$package" >&2
  mv "$made.building" "$made"
fi
echo "$made/$name"
