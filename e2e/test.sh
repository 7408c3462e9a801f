#!/bin/bash
# Runs the tiers of tests, or the one of TIER, cheapest first; stops after the first that fails.
# Ends with a table of the tiers and the line "N passed, N failed, N skipped".
set -uo pipefail
cd "$(dirname "$0")/.."

cluster=e2e/cluster/bin/cluster
logs=target/test-logs
mkdir -p "$logs"

# What runs in a tier. Every test of the workspace is in exactly one.
unit() {
  cargo test --workspace --no-fail-fast --lib --bins --examples --test arrows --test identity --test wire \
    --test generated --test upstream --test installation --test memory --test random --test reconcile --test rendered
  (cd e2e/cluster && go test ./internal/...)
}

netns() {
  # They mostly wait for tokens to end, so more of them run side by side than there are cores.
  cargo test --workspace --no-fail-fast --test dataplane --test netns -- --test-threads=6
}

controlplane() {
  make --no-print-directory cluster
  NSM_HELM_BIN=$(e2e/helm.sh)
  export NSM_HELM_BIN
  cargo test --workspace --no-fail-fast --test controlplane
}

peers() {
  # Upstream's processes as the other side.
  (cd e2e/peers && CGO_ENABLED=0 go build -trimpath -o bin/peers .)
  cargo test --workspace --no-fail-fast --test peers -- --test-threads=6
  # Upstream's own tests of a control plane, with our nsmgr and registry in it.
  (cd e2e/peers && go run ./conformance)
}

cluster() {
  make --no-print-directory cluster images
  # Under a name of its own, beside a cluster of `make demo`.
  export NSM_CLUSTER_NAME=nsm-test NSM_AUDIT_LOG=$PWD/$logs/audit.log
  "$cluster" down
  rm -f "$NSM_AUDIT_LOG"
  trap '"$cluster" down' EXIT
  "$cluster" up --audit-log "$NSM_AUDIT_LOG" \
    --image "$IMAGES/nsm.tar" --image "$IMAGES/nsm-operator.tar" --image "$IMAGES/toolbox.tar"
  cargo test --workspace --no-fail-fast --test cluster -- --test-threads=1
}

# Not among those that run unless it is asked for: to build SPIRE takes minutes.
spire() {
  NSM_SPIRE_BIN=$(e2e/spire.sh)
  export NSM_SPIRE_BIN
  cargo test --workspace --no-fail-fast --test spire -- --test-threads=2
}

# Nor this one: the guest is emulated, which takes minutes.
qemu() {
  local tests
  tests=$(cargo test -p nsm-e2e --test qemu --no-run --message-format=json |
    sed -n '/"name":"qemu"/s/.*"executable":"\([^"]*\)".*/\1/p')
  local code=0
  e2e/qemu.sh "$tests" || code=$?
  # It has said why.
  [ $code != 3 ] || exit 0
  return $code
}

tiers=(unit netns peers controlplane cluster)
[ -z "${TIER:-}" ] || tiers=("$TIER")
cargo build --workspace --bins --examples -q || exit 1
export NSM_BIN="$PWD/$PROGRAMS/nsm" NSM_OPERATOR_BIN="$PWD/$PROGRAMS/nsm-operator" NSM_CLUSTER_BIN="$PWD/$cluster"
# Root is there where it is needed, so a test that skips for want of it has failed.
[ "$(id -u)" != 0 ] || export NSM_REQUIRE_ROOT=1

total=(0 0 0)
table=''
code=0
for tier in "${tiers[@]}"; do
  declare -F "$tier" > /dev/null || { echo "test: no tier $tier; use one of unit, netns, controlplane, peers, cluster, spire, qemu" >&2; exit 2; }
  echo "== $tier"
  started=$SECONDS
  (set -e; "$tier") 2>&1 | tee "$logs/$tier.log"
  ended=${PIPESTATUS[0]}
  read -r passed failed skipped < <(awk -f e2e/count.awk "$logs/$tier.log")
  # A tier that could not be built has failed even though no test did.
  [ "$ended" = 0 ] || [ "$failed" != 0 ] || failed=1
  [ "$failed" = 0 ] || code=1
  total=($((total[0] + passed)) $((total[1] + failed)) $((total[2] + skipped)))
  table+=$(printf '%-14s %6d %6d %7d %6ds' "$tier" "$passed" "$failed" "$skipped" $((SECONDS - started)))$'\n'
  [ $code = 0 ] || break
done

printf '\n%-14s %6s %6s %7s %7s\n%s' tier passed failed skipped time "$table"
[ $code = 0 ] || echo "logs of the tiers: $logs"
echo "${total[0]} passed, ${total[1]} failed, ${total[2]} skipped"
exit $code
