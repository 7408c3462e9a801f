#!/bin/bash
# Packs the built programs into OCI archives under $IMAGES: the mesh, the operator, and a toolbox
# that client pods of the samples run.
set -euo pipefail
cd "$(dirname "$0")/.."

pack=$PROGRAMS/oci-image
mkdir -p "$IMAGES"

# Packs one program, unless the archive is newer than it.
program() {
  local name=$1 program=$2 user=$3 archive=$IMAGES/$1.tar
  [ "$archive" -nt "$PROGRAMS/$program" ] && [ "$archive" -nt "$pack" ] && return
  strip -o "$IMAGES/$program" "$PROGRAMS/$program"
  "$pack" --name "nsm.local/$name:dev" --output "$archive" --user "$user" \
    --file "$IMAGES/$program=/$program" --entrypoint "/$program"
  rm "$IMAGES/$program"
}

program nsm nsm 0:0
program nsm-operator nsm-operator 65532:65532

toolbox=$IMAGES/toolbox.tar
if [ ! "$toolbox" -nt /bin/busybox ]; then
  links=()
  for applet in sh sleep ping nc httpd cat ip; do links+=(--symlink "/bin/$applet=busybox"); done
  "$pack" --name nsm.local/toolbox:dev --output "$toolbox" --file /bin/busybox=/bin/busybox "${links[@]}"
fi
