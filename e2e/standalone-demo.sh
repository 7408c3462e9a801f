#!/bin/bash
# The mesh without Kubernetes: two network namespaces, an endpoint in one and a client in the other, and
# between them `nsm standalone`, which is killed and started again beneath a ping that loses nothing.
# Leaves nothing behind. Exit code 1 when a packet was lost, 2 when something is missing.
set -euo pipefail
cd "$(dirname "$0")/.."

nsm=${NSM_BIN:-$PWD/${PROGRAMS:-target/$(uname -m)-unknown-linux-gnu/debug}/nsm}
rate=${RATE:-200} # packets a second

missing=()
[ "$(id -u)" = 0 ] || missing+=("root, to make network namespaces: sudo make standalone-demo")
[ -x "$nsm" ] || missing+=("the program $nsm: make build")
for program in ip ping; do
  command -v "$program" > /dev/null || missing+=("the program $program: make setup")
done
if [ ${#missing[@]} -gt 0 ]; then
  printf 'standalone-demo: this needs %s\n' "${missing[@]}" >&2
  exit 2
fi

if [ -t 1 ]; then bold=$'\e[1m' green=$'\e[32m' red=$'\e[31m' plain=$'\e[0m'; else bold='' green='' red='' plain=''; fi
started=$(date +%s%N)
step() { printf '%s%6d ms  %s%s\n' "$bold" $((($(date +%s%N) - started) / 1000000)) "$*" "$plain"; }

id=nsm-demo-$$
folder=$(mktemp -d "/tmp/$id-XXXX")
declare -A pids=()

cleanup() {
  local code=$?
  trap '' INT TERM
  if [ $code != 0 ] && [ $code != 1 ]; then
    for log in "$folder"/*.log; do echo "--- ${log##*/}"; tail -n 15 "$log"; done >&2
  fi
  # The client closes its connection; by then the mesh has to be there.
  for name in nsc nse mesh ping; do
    [ -z "${pids[$name]:-}" ] || { kill "${pids[$name]}" 2> /dev/null && wait "${pids[$name]}" 2> /dev/null; } || true
  done
  for pod in host endpoint client; do ip netns delete "$id-$pod" 2> /dev/null || true; done
  rm -rf "$folder"
  exit $code
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# Runs a process of the mesh in a namespace: run <name> <pod> <arguments>, settings by the environment.
run() {
  local name=$1 pod=$2
  shift 2
  ip netns exec "$id-$pod" "$@" >> "$folder/$name.log" 2>&1 &
  pids[$name]=$!
}

# Waits until a command succeeds: until_true <what> <command>.
until_true() {
  local what=$1 end=$((SECONDS + 30))
  shift
  until "$@" > /dev/null 2>&1; do
    if [ $SECONDS -ge $end ]; then
      echo "standalone-demo: not within 30 s: $what" >&2
      exit 3
    fi
    sleep 0.02
  done
}

# One folder for everything; clients and endpoints need to know two sockets in it.
export SPIFFE_ENDPOINT_SOCKET=unix://$folder/agent.sock NSM_CONNECT_TO=unix://$folder/nsm.io.sock
# Short, so that connections are refreshed, and what is not would end, while the ping runs.
export NSM_MAX_TOKEN_LIFETIME=10s NSM_METRICS_LISTEN_ON=
mesh() { NSM_BASE_DIR=$folder run mesh host "$nsm" standalone; }
ready() { "$nsm" health "unix://$folder/private/$1.sock" --timeout 1s; }
is_connected() { ip -n "$id-client" -4 address show dev nsm-1 up | grep -q inet; }

step 'Two pods, which are network namespaces, and a host'
for pod in host endpoint client; do
  ip netns add "$id-$pod"
  ip -n "$id-$pod" link set lo up
done

step 'nsm standalone: registry, nsmgr, forwarder and identity in one process'
mesh
until_true 'the mesh is ready' ready forwarder
step 'ready'

step 'nsm nse: an endpoint of the service "hello"'
NSM_NAME=nse NSM_SERVICE_NAMES=hello NSM_CIDR_PREFIX=172.16.7.0/24 NSM_LISTEN_ON=unix://$folder/nse.sock \
  run nse endpoint "$nsm" nse
step 'nsm nsc: a client that asks for it'
NSM_NAME=nsc NSM_NETWORK_SERVICES=kernel://hello/nsm-1 NSM_LISTEN_ON=unix://$folder/nsc.sock \
  NSM_LOCAL_DNS_SERVER_ENABLED=false run nsc client "$nsm" nsc
until_true 'the client has its interface' is_connected
step 'connected'
ip -n "$id-client" -brief address show dev nsm-1
ip -n "$id-client" route show dev nsm-1

address=$(ip -n "$id-client" route show dev nsm-1 | awk 'NR == 1 {print $1}')
step "ping $address, $rate packets a second"
ip netns exec "$id-client" ping -i "$(awk "BEGIN {print 1 / $rate}")" -W 2 -q "$address" > "$folder/ping.log" 2>&1 &
pids[ping]=$!
sleep 1

step 'The way of the connection'
NSM_METRICS_LISTEN_ON='' "$nsm" connections -o wide

step "${red}kill -9${plain}${bold} of the whole mesh"
kill -9 "${pids[mesh]}"
wait "${pids[mesh]}" 2> /dev/null || true
sleep 1
step 'started again'
mesh
until_true 'the mesh is ready' ready forwarder
step 'ready; nothing in the pods was touched'
# Longer than the token lives: what was not refreshed would be gone.
sleep 12

kill -INT "${pids[ping]}"
wait "${pids[ping]}" || true
unset 'pids[ping]'
read -r sent received < <(sed -n 's/^\([0-9]*\) packets transmitted, \([0-9]*\) received.*/\1 \2/p' "$folder/ping.log")
tail -n 2 "$folder/ping.log"
"$nsm" connections -o wide
lost=$((sent - received))
if [ "$sent" = 0 ] || [ "$lost" != 0 ]; then
  step "${red}packets sent: $sent, packets lost: $lost"
  exit 1
fi
step "${green}packets sent: $sent, packets lost: 0"
