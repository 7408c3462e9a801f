#!/bin/bash
# Repeats what must hold however often it is tried, in rounds until the time of FOR (10m) is up; a
# round that began is finished. Ends with a table of the steps and the line "N passed, N failed, N skipped".
set -uo pipefail
cd "$(dirname "$0")/.."

logs=target/soak-logs
connections=${CONNECTIONS:-20000}
restarts=${RESTARTS:-20}
mkdir -p "$logs"

# Seconds of a time such as 90s, 10m or 2h.
seconds() {
  local number=${1%[smh]}
  [[ "$number" =~ ^[0-9]+$ ]] || { echo "soak: FOR=$1 is no time; write 90s, 10m or 2h" >&2; exit 2; }
  case $1 in *s) echo "$number" ;; *h) echo $((number * 3600)) ;; *m) echo $((number * 60)) ;;
    *) echo "soak: FOR=$1 has no unit; write 90s, 10m or 2h" >&2; exit 2 ;; esac
}
limit=$(seconds "${FOR:-10m}") || exit 2

netns() {
  cargo test -q -p nsm-e2e --no-fail-fast --test netns -- "$@"
}

churn() {
  NSM_CHURN=$connections netns --nocapture connections_that_come_and_go
}

restart() {
  netns restarts:: --test-threads=6
}

combinations() {
  echo "seed $NSM_SEED"
  NSM_ALL_PAIRS=1 netns whatever_happens_to_the_meshs_processes
}

mutations() {
  echo "seed $NSM_SEED"
  netns five_thousand_messages
}

rest() {
  make --no-print-directory cluster
  NSM_CLUSTER_BIN="$PWD/e2e/cluster/bin/cluster" NSM_REST=600 \
    cargo test -q -p nsm-e2e --no-fail-fast --test controlplane -- --nocapture ten_thousand_endpoints
}

conformance() {
  (cd e2e/peers && CGO_ENABLED=0 go build -trimpath -o bin/peers . && go run ./conformance)
}

spire() {
  TIER=spire e2e/test.sh
}

# Folders of tests whose process is gone: whoever made them has left something.
abandoned() {
  local folder owner
  for folder in "${TMPDIR:-/tmp}"/nsm-e2e-* "$PROGRAMS"/nsm-e2e-*; do
    [ -e "$folder" ] || continue
    owner=${folder##*/nsm-e2e-}
    [ -e "/proc/${owner%%-*}" ] || echo "$folder"
  done
}

total=(0 0 0)
table=''
code=0

# Runs a step under a name and adds it to the table.
step() {
  local name=$1 began=$SECONDS ended passed failed skipped
  shift
  echo "== $name"
  (set -e; "$@") > "$logs/$name.log" 2>&1
  ended=$?
  read -r passed failed skipped < <(awk -f e2e/count.awk "$logs/$name.log")
  # What could not be run has failed even though no test did.
  [ "$ended" = 0 ] || [ "$failed" != 0 ] || failed=1
  [ "$failed" = 0 ] || { code=1; tail -n 40 "$logs/$name.log"; }
  total=($((total[0] + passed)) $((total[1] + failed)) $((total[2] + skipped)))
  table+=$(printf '%-20s %6d %6d %7d %6ds' "$name" "$passed" "$failed" "$skipped" $((SECONDS - began)))$'\n'
}

cargo build --workspace --bins --examples -q && cargo test -q -p nsm-e2e --test netns --no-run || exit 1
export NSM_BIN="$PWD/$PROGRAMS/nsm" NSM_OPERATOR_BIN="$PWD/$PROGRAMS/nsm-operator"
[ "$(id -u)" != 0 ] || export NSM_REQUIRE_ROOT=1

round=0
while [ $round = 0 ] || [ $SECONDS -lt "$limit" ]; do
  round=$((round + 1))
  step "churn-$round" churn
  for pass in $(seq "$restarts"); do step "restarts-$round-$pass" restart; done
  export NSM_SEED=$((RANDOM * 32768 + RANDOM))
  step "mutations-$round" mutations
  step "combinations-$round" combinations
  if command -v go > /dev/null; then
    step "conformance-$round" conformance
    step "rest-$round" rest
    step "spire-$round" spire
  else
    echo "conformance, rest and spire: skipped, there is no Go"
    total[2]=$((total[2] + 3))
  fi
done
left=$(abandoned)
if [ -n "$left" ]; then
  echo "soak: left behind: $left" >&2
  total[1]=$((total[1] + 1))
  code=1
fi

printf '\n%-20s %6s %6s %7s %7s\n%s' step passed failed skipped time "$table"
grep -h 'KiB before' "$logs"/churn-*.log
[ $code = 0 ] || echo "logs of the steps: $logs"
echo "${total[0]} passed, ${total[1]} failed, ${total[2]} skipped"
exit $code
