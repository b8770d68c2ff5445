#!/usr/bin/env bash
# Installs what some tests of faults need, where apt-get can: a clock that can be set wrong (libfaketime) and networks of their
# own (ip, curl). Where something is missing all the same, these tests say so and are skipped.
set -euo pipefail

missing=()
compgen -G '/usr/lib/*/faketime/libfaketimeMT.so.1' >/dev/null || compgen -G '/usr/lib*/faketime/libfaketimeMT.so.1' >/dev/null ||
    missing+=(libfaketime)
command -v ip >/dev/null || missing+=(iproute2)
command -v curl >/dev/null || missing+=(curl)
[ "${#missing[@]}" -gt 0 ] || exit 0

root=()
command -v apt-get >/dev/null || exit 0
[ "$(id -u)" = 0 ] || { root=(sudo -n) && sudo -n true 2>/dev/null; } || exit 0
echo "tests: installing ${missing[*]} with apt-get"
"${root[@]}" apt-get update -qq >/dev/null 2>&1 || true
"${root[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null 2>&1 ||
    echo "tests: they cannot be installed; some tests will be skipped"
