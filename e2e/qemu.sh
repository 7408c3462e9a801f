#!/bin/bash
# Runs test programs on a kernel of Debian's in QEMU, for what the kernel of this machine lacks: WireGuard, VRF and
# VLAN. Without an argument it makes the kernel ready and prints its folder; with the programs it runs them there.
#
# The kernel's package is unpacked into the cache under its name and version and not installed. The guest is
# emulated, so any machine will do; it has no network device.
set -euo pipefail
cd "$(dirname "$0")/.."

# Seconds that the guest may take: emulated, a test takes some ten times as long.
limit=${NSM_QEMU_LIMIT:-1500}
cache=${NSM_CACHE:-$HOME/.cache/nsm-e2e}
# What the tests start beside the mesh.
programs=(ip ping nsenter setpriv unshare sleep)
# Folders of modules that are put into the guest.
modules=(drivers/net net arch/x86/crypto crypto lib)

skip() {
  echo "SKIPPED TIER: $1"
  exit 3
}

[ "$(uname -m)" = x86_64 ] || skip "the guest is an x86-64 one, and this machine is $(uname -m)"
command -v apt-get > /dev/null || skip "the kernel comes as a package of Debian's, and there is no apt-get here"
if ! command -v qemu-system-x86_64 > /dev/null; then
  [ "$(id -u)" = 0 ] || skip "qemu-system-x86_64 is missing: install qemu-system-x86, or run as root"
  echo "qemu: installing qemu-system-x86" >&2
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends qemu-system-x86 > /dev/null 2>&1 ||
    skip "qemu-system-x86 cannot be installed: is the package registry in reach?"
fi

# The newest kernel for machines of clouds, or the one that the cache has where the registry is out of reach.
package=$(apt-cache search --names-only '^linux-image-[0-9.]+-cloud-amd64$' | awk '{ print $1 }' | sort -V | tail -1)
package=$(apt-cache depends "${package:-linux-image-cloud-amd64}" 2> /dev/null | awk '$1 == "Depends:" { print $2; exit }')
version=$(apt-cache show "$package" 2> /dev/null | awk '$1 == "Version:" { print $2; exit }')
kernel=$cache/$package-$version
mkdir -p "$cache"
exec 9< "$cache"
flock 9
# Whoever asked meanwhile finds what this one made.
if [ ! -e "$kernel/vmlinuz" ]; then
  echo "qemu: unpacking $package $version" >&2
  rm -rf "$kernel.making"
  mkdir -p "$kernel.making/package"
  trap 'rm -rf "$kernel.making"' EXIT
  (cd "$kernel.making" && apt-get download -qq "$package" > /dev/null 2>&1) ||
    skip "$package cannot be downloaded: is the package registry in reach?"
  dpkg -x "$kernel.making"/*.deb "$kernel.making/package"
  release=$(ls "$kernel.making/package/lib/modules")
  mkdir "$kernel.making/root"
  for folder in "${modules[@]}"; do
    (cd "$kernel.making/package" && cp -r --parents "lib/modules/$release/kernel/$folder" "$kernel.making/root")
  done
  find "$kernel.making/root" -name '*.xz' -exec xz -d {} +
  (cd "$kernel.making/root" && cp "../package/lib/modules/$release"/modules.{order,builtin} "lib/modules/$release/" &&
    busybox depmod -b "$PWD" "$release")
  mv "$kernel.making/package/boot"/vmlinuz-* "$kernel.making/vmlinuz"
  rm -rf "$kernel.making/package" "$kernel.making"/*.deb
  mv "$kernel.making" "$kernel"
fi
flock -u 9
[ $# -gt 0 ] || { echo "$kernel"; exit 0; }

root=$(mktemp -d "${TMPDIR:-/tmp}/nsm-qemu-XXXXXX")
trap 'rm -rf "$root"' EXIT
mkdir -p "$root"/{usr/bin,sbin,tests/run,lib}
ln -s usr/bin "$root/bin"
cp -r "$kernel/root/lib/modules" "$root/lib/"
install -m 755 e2e/qemu/init "$root/init"
install -m 755 "$(command -v busybox)" "$root/usr/bin/busybox"
for name in sh mount umount cat; do ln -s busybox "$root/usr/bin/$name"; done
ln -s ../usr/bin/busybox "$root/sbin/modprobe"
for name in "${programs[@]}"; do
  program=$(command -v "$name")
  install -m 755 "$program" "$root/usr/bin/$name"
  # The libraries it needs, where it looks for them.
  ldd "$program" | grep -o '/[^ ]*' | grep -v ':$' | while read -r library; do
    install -D -m 755 "$(readlink -f "$library")" "$root$library"
  done
done
# Without what debuggers need: the guest has it all in memory.
strip -o "$root/tests/nsm" "$NSM_BIN"
for test in "$@"; do
  name=${test##*/}
  strip -o "$root/tests/run/${name%-*}" "$test"
done
(cd "$root" && find . | busybox cpio -o -H newc 2> /dev/null > "$root.cpio")
trap 'rm -rf "$root" "$root.cpio"' EXIT

# Two processors, each a thread of this machine. Now and then the emulator does not keep up with a kernel that rewrites
# its own code, or trips over an instruction that is seldom used: such a guest is started again. What tests find ends it
# otherwise.
for try in 1 2 3; do
  timeout --foreground "$limit" qemu-system-x86_64 -accel tcg,thread=multi -cpu max,-la57,-cx16 -smp 2 -m 3G -nodefaults \
    -no-reboot -display none -serial stdio -monitor none -nic none \
    -kernel "$kernel/vmlinuz" -initrd "$root.cpio" \
    -append 'console=ttyS0 quiet loglevel=3 oops=panic panic=-1 mitigations=off' < /dev/null |
    sed -u 's/\r//' > "$root/console" || echo "qemu: the guest did not end within $limit s" >&2
  grep -q 'Kernel panic' "$root/console" || break
  echo "qemu: the guest's kernel fell over, try $try of 3" >&2
done
cat "$root/console"
grep -q '^guest: ended with 0$' "$root/console"
