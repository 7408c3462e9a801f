#!/bin/bash
# Builds SPIRE unless the cache has it, and prints where the program is; the first time takes some ten minutes.
# Its database is SQLite, which is C.
export CGO_ENABLED=1
exec "$(dirname "$0")/tool.sh" spire . github.com/spiffe/spire
