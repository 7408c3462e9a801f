#!/bin/bash
# From a cluster to a ping through the mesh. Uses the cluster of KUBECONFIG, whose nodes must know
# the images, or starts the local one.
set -euo pipefail
cd "$(dirname "$0")/.."

started=$SECONDS
if [ -t 1 ]; then bold=$'\e[1m' green=$'\e[32m' plain=$'\e[0m'; else bold='' green='' plain=''; fi
step() { printf '%s%4ds  %s%s\n' "$bold" $((SECONDS - started)) "$*" "$plain"; }

cluster=e2e/cluster/bin/cluster
if [ -n "${KUBECONFIG:-}" ]; then
  kubectl() { command kubectl "$@"; }
  down='kubectl delete -f config/samples; kubectl delete -f charts/install.yaml'
else
  step 'Kubernetes: two nodes'
  "$cluster" up
  "$cluster" load-image "$IMAGES/nsm.tar" "$IMAGES/nsm-operator.tar" "$IMAGES/toolbox.tar"
  kubectl() { "$cluster" kubectl "$@"; }
  down='make demo-down'
fi

# Shows what stands in the way, when something does.
trouble() {
  local code=$?
  [ $code = 0 ] && return
  echo "demo: failed after $((SECONDS - started)) s; what the cluster says:" >&2
  {
    kubectl get nsm,nsmnode,netsvc,nse -A -o wide
    kubectl get pods -A -o wide
    kubectl get events -A --sort-by=.lastTimestamp | tail -n 20
    kubectl -n nsm-operator logs deployment/nsm-operator --tail=20
  } >&2 || true
  exit $code
}
trap trouble EXIT

step 'Operator'
kubectl apply --server-side --force-conflicts -f charts/install.yaml > /dev/null
kubectl wait --for=condition=Established crd/nsmconfigs.operator.networkservicemesh.io --timeout=30s > /dev/null
kubectl -n nsm-operator rollout status deployment/nsm-operator --timeout=90s

step 'Mesh: kubectl apply -f config/samples/nsmconfig.yaml'
kubectl apply -f config/samples/nsmconfig.yaml
kubectl wait --for=condition=Ready nsm/default --timeout=120s

step 'Service, endpoint and clients: kubectl apply -f config/samples'
kubectl apply -f config/samples > /dev/null
kubectl -n nsm-demo wait --for=condition=Ready pods -l app.kubernetes.io/name=nsm-client --timeout=120s

# Until the node agents have reported both connections.
kubectl wait --for=jsonpath='{.status.connections.total}'=2 nsm/default --timeout=60s > /dev/null
step 'What the resources tell'
kubectl get nsm
kubectl get nsmnode
kubectl get netsvc,nse -A

# The address at the other end of a client's interface: where its only mesh route leads.
peer() { kubectl -n nsm-demo exec "$1" -c app -- ip route | awk '/ dev nsm-1/ {print $1; exit}'; }
for client in client-local client-remote; do
  node=$(kubectl -n nsm-demo get pod "$client" -o jsonpath='{.spec.nodeName}')
  step "ping from $client on $node"
  kubectl -n nsm-demo exec "$client" -c app -- ping -c 3 -i 0.2 -W 2 "$(peer "$client")"
done

step "${green}done: two connections, one of them across nodes"
cat <<TXT

Try next:
  ${cluster} kubectl get nsm,nsmnode -o yaml     the health of every connection
  ${cluster} kubectl -n nsm-demo delete pod client-remote    and see CONNS fall
  ${down}
TXT
