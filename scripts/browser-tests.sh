#!/usr/bin/env bash
# Runs the dashboard's browser tests against a server of their own: its data are thrown away afterwards.
#
#   CHROMIUM          the browser to use; without it, one is looked for, and installed where apt-get can
#   NEWCYCLE_BINARY   the server to test (default: target/debug/newcycle)
set -euo pipefail
cd "$(dirname "$0")/.."

# Longer than a first start takes on a slow machine: making a database cluster is most of it.
start_seconds=120
# The server ends its streams and its Postgres in this time, or is killed.
stop_seconds=30

fail() {
    echo "browser tests: $*" >&2
    exit 1
}

find_chromium() {
    local name
    for name in chromium chromium-browser google-chrome; do
        # What a distribution calls chromium may be a stub: it must run.
        "$name" --version >/dev/null 2>&1 && command -v "$name" && return
    done
    return 1
}

install_chromium() {
    local root=()
    command -v apt-get >/dev/null || return 1
    [ "$(id -u)" = 0 ] || { root=(sudo -n) && sudo -n true 2>/dev/null; } || return 1
    echo "browser tests: installing chromium with apt-get"
    "${root[@]}" apt-get update -qq >/dev/null 2>&1 || true
    "${root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends chromium >/dev/null 2>&1
}

if [ -n "${CHROMIUM:-}" ]; then
    command -v "$CHROMIUM" >/dev/null || fail "CHROMIUM is $CHROMIUM, which cannot be run"
else
    CHROMIUM=$(find_chromium || { install_chromium >&2 && find_chromium; }) ||
        fail "there is no chromium and it cannot be installed here: install it, or name a browser with CHROMIUM"
fi
export CHROMIUM
binary=${NEWCYCLE_BINARY:-${CARGO_TARGET_DIR:-target}/debug/newcycle}
[ -x "$binary" ] || fail "there is no $binary: run cargo build"
# For tests that start servers of their own, from another directory.
NEWCYCLE_BINARY=$(realpath "$binary")
export NEWCYCLE_BINARY

data_dir=$(mktemp -d)
server=''
stop() {
    if [ -n "$server" ]; then
        kill -TERM "$server" 2>/dev/null || true
        local waited=0
        while kill -0 "$server" 2>/dev/null && [ "$waited" -lt "$((stop_seconds * 10))" ]; do
            sleep 0.1
            waited=$((waited + 1))
        done
        # Even killed, it leaves no Postgres behind.
        kill -KILL "$server" 2>/dev/null || true
        wait "$server" 2>/dev/null || true
    fi
    rm -rf "$data_dir"
}
trap stop EXIT
trap 'exit 130' INT TERM

# On any free port; it says on which.
env -u DATABASE_URL -u PGHOST -u PGPORT -u DASHBOARD_PORT \
    SERVER_HOST=127.0.0.1 SERVER_PORT=0 NEWCYCLE_DATA_DIR="$data_dir" "$binary" serve >"$data_dir/server.log" 2>&1 &
server=$!

SECONDS=0
NEWCYCLE_URL=''
until [ -n "$NEWCYCLE_URL" ] && "$binary" ready --url "$NEWCYCLE_URL" >/dev/null 2>&1; do
    if ! kill -0 "$server" 2>/dev/null || [ "$SECONDS" -gt "$start_seconds" ]; then
        tail -n 30 "$data_dir/server.log" >&2
        fail "the server did not become ready"
    fi
    sleep 0.1
    NEWCYCLE_URL=$(sed -n 's|^ *dashboard *\(http://[^ /]*\).*|\1|p' "$data_dir/server.log" | head -n 1)
done
export NEWCYCLE_URL

if ! (cd dashboard && npm run test:browser -- "$@"); then
    echo "browser tests: the last of what the server said:" >&2
    tail -n 30 "$data_dir/server.log" >&2
    exit 1
fi
