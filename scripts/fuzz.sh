#!/usr/bin/env bash
# Runs the fuzz targets one after the other, each for a bounded time, and says what came of it. Ends with 1 when one of them
# has found something; the input that did it is kept.
#
#   scripts/fuzz.sh [--seconds N] [target …]      all targets for 30 seconds each, unless said otherwise
#
# A stable compiler is enough: coverage is a matter of code generation. Sanitizers would need a nightly one, and find what safe
# code does not do: this crate denies `unsafe`.
set -euo pipefail
cd "$(dirname "$0")/.."

# What is installed when there is none.
cargo_fuzz_version=0.13.2
# A single input that takes longer is one that was found. The slowest that is meant, a cron expression without moments, takes some
# three seconds of an instrumented build.
timeout_seconds=30
# Much more than any target needs.
memory_mb=1024
# Rows, pages and definitions are shorter; most of what goes wrong, goes wrong with few bytes.
longest_input=4096

fail() {
    echo "fuzz: $*" >&2
    exit 1
}

seconds=30
targets=()
while [ $# -gt 0 ]; do
    case $1 in
        --seconds)
            seconds=${2:?how many}
            shift 2
            ;;
        *)
            targets+=("$1")
            shift
            ;;
    esac
done
all=$(sed -n '/^\[\[bin\]\]/{n;s/^name = "\(.*\)"$/\1/p}' fuzz/Cargo.toml)
[ ${#targets[@]} -gt 0 ] || mapfile -t targets <<<"$all"
for target in "${targets[@]}"; do
    grep -qx -- "$target" <<<"$all" || fail "there is no target $target; there are $(tr '\n' ' ' <<<"$all")"
done

mkdir -p "${CARGO_TARGET_DIR:-target}"
output=$(realpath "${CARGO_TARGET_DIR:-target}")
PATH=$output/tools/bin:$PATH
if ! cargo fuzz --version >/dev/null 2>&1; then
    echo "fuzz: installing cargo-fuzz $cargo_fuzz_version"
    cargo install cargo-fuzz --version "$cargo_fuzz_version" --locked --root "$output/tools" ||
        fail "cargo-fuzz is missing and cannot be installed here: cargo install cargo-fuzz"
fi
command -v c++ >/dev/null || fail "a C++ compiler is missing, which builds libFuzzer: install g++ or clang"
mkdir -p dashboard/dist

export CARGO_TARGET_DIR=$output/fuzz
build() { cargo fuzz build --sanitizer none "$@"; }
if [ ${#targets[@]} -eq 1 ]; then build "${targets[0]}"; else build; fi || fail "the targets cannot be built"
host=$(rustc -vV | sed -n 's/^host: //p')

found=0
summary=''
for target in "${targets[@]}"; do
    corpus=$output/fuzz/corpus/$target
    artifacts=$output/fuzz/artifacts/$target/
    mkdir -p "$corpus" "$artifacts"
    log=$output/fuzz/$target.log
    echo "fuzz: $target"
    verdict=ok
    "$CARGO_TARGET_DIR/$host/release/$target" "$corpus" "fuzz/seeds/$target" -artifact_prefix="$artifacts" \
        -max_total_time="$seconds" -timeout="$timeout_seconds" -rss_limit_mb="$memory_mb" -max_len="$longest_input" \
        -print_final_stats=1 >"$log" 2>&1 || verdict=FOUND
    if [ "$verdict" = FOUND ]; then
        found=1
        grep -v '^#' "$log" | tail -n 25 >&2
    fi
    runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
    memory=$(sed -n 's/^stat::peak_rss_mb: *//p' "$log")
    coverage=$(sed -n 's/^#.* cov: \([0-9]*\) .*/\1/p' "$log" | tail -n 1)
    summary+=$(printf '%-15s %-6s %10s runs %7s edges %5s MB' "$target" "$verdict" "${runs:--}" "${coverage:--}" "${memory:--}")$'\n'
done
echo
printf '%s' "$summary"
[ "$found" = 0 ] || fail "something was found; what did it is in $output/fuzz/artifacts: make it a seed, and it stays found"
