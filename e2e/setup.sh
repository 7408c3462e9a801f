#!/bin/bash
# Installs the Debian packages that building and testing need, as far as they are missing.
set -euo pipefail

# Program or file that shows a package is there, and the package.
wanted=(
  /usr/bin/containerd containerd
  /usr/sbin/runc runc
  /usr/lib/cni/bridge containernetworking-plugins
  /usr/sbin/nft nftables
  /usr/sbin/iptables iptables
  /usr/sbin/conntrack conntrack
  /bin/ip iproute2
  /bin/ping iputils-ping
  /bin/busybox busybox-static
  /usr/bin/gcc gcc
  /usr/lib/x86_64-linux-gnu/libc.a libc6-dev
  /usr/bin/strip binutils
  /usr/bin/column bsdextrautils
)

missing=()
for ((i = 0; i < ${#wanted[@]}; i += 2)); do
  [ -e "${wanted[i]}" ] || missing+=("${wanted[i + 1]}")
done
# Other architectures keep libc.a elsewhere.
if compgen -G '/usr/lib/*/libc.a' > /dev/null; then
  missing=("${missing[@]/libc6-dev/}")
fi
read -ra missing <<< "${missing[*]:-}"
[ ${#missing[@]} -gt 0 ] || exit 0

echo "setup: installing ${missing[*]}" >&2
if [ "$(id -u)" != 0 ] || ! command -v apt-get > /dev/null; then
  echo "setup: run as root on Debian, or install these yourself: ${missing[*]}" >&2
  exit 1
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -y -qq --no-install-recommends "${missing[@]}" > /dev/null
