#!/bin/sh
# bench.sh PROGRAM: heed-bench lists its cases, times one, and says in one line what is wrong with its arguments; so does
# script/bench, before it builds anything.
set -u
bench=$1
script=$(dirname "$0")/../script/bench
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

fail() {
    echo "$1"
    cat "$work/out" "$work/err"
    exit 1
}

wrong() {
    program=$1 expected=$2
    shift 2
    "$program" "$@" >"$work/out" 2>"$work/err" </dev/null
    status=$?
    if [ $status -ne 2 ] || [ -s "$work/out" ] || [ "$(wc -l <"$work/err")" -ne 1 ] || ! grep -q -e "$expected" "$work/err"; then
        fail "$program $*: exit status $status"
    fi
}

run() {
    "$bench" "$@" >"$work/out" 2>"$work/err" </dev/null || fail "$*: failed"
    [ ! -s "$work/err" ] || fail "$*: said something on standard error"
}

wrong "$bench" "'--bogus' is unknown" --bogus
wrong "$bench" "'--case' needs a value" --case
wrong "$bench" "'nothing' is no case" --case nothing
wrong "$bench" "'x' is no whole number" --threads x
wrong "$bench" "'257' is no whole number" --threads 257
wrong "$bench" "'-1' is no number of seconds" --seconds -1
wrong "$script" "unknown argument '--bogus'" --bogus
wrong "$script" 'a value must follow' --case
wrong "$script" 'knows torch and jax' --vs
wrong "$script" "'0' is no whole number" --rounds 0
run --help
grep -q -e '--case NAME' "$work/out" || fail 'help'
run --list
grep -q '^gpt_mini_step ' "$work/out" || fail 'list'
run --case softmax_seed --seconds 0 --threads 2
[ "$(wc -l <"$work/out")" -eq 2 ] || fail 'a heading and a row'
run --case softmax_seed --seconds 0 --threads 2 --json
for key in '"case": "softmax_seed"' '"min_ms": ' '"median_ms": ' '"runs": ' '"peak_bytes": ' '"threads": 2,' '"blas": "OpenBLAS' '"bytes": 2097152,' \
    '"gb_per_s": [0-9]*\.[0-9]*[1-9]' '"peak_gb_per_s": 0.0,'; do
    grep -q -e "$key" "$work/out" || fail "no $key"
done
run --case sgemm_256 --seconds 0 --threads 2 --json
grep -q '"operations": 33554432, .*"gflop_per_s": [0-9]*\.[0-9]*[1-9]' "$work/out" || fail 'no operations'
"$bench" --list >/dev/full 2>"$work/err"
[ $? -eq 1 ] || fail 'a full disk'
