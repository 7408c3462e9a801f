#!/bin/bash
# Writes nsm-components/tests/wire/live.txt anew: runs the test whose mesh is upstream's but for the
# forwarders, and keeps of each process, method and direction the first message and the last. Needs
# root and what `make test TIER=peers` builds.
set -euo pipefail
cd "$(dirname "$0")/../.."

recorded=$(mktemp)
trap 'rm -f "$recorded"' EXIT
NSM_RECORD=$recorded cargo test -p nsm-e2e --test peers -- --exact \
  forwarder::our_forwarders_carry_packets_where_all_else_is_of_upstream
awk '
  /^grpc[.]/ { next }
  { key = $1 " " $2; if (!(key in first)) { first[key] = $0; order[++count] = key } last[key] = $0 }
  END {
    for (i = 1; i <= count; i++) {
      key = order[i]
      print first[key]
      if (last[key] != first[key]) print last[key]
    }
  }
' "$recorded" | LC_ALL=C sort > nsm-components/tests/wire/live.txt
