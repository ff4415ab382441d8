#!/bin/sh
# script/demo looks at its arguments before it installs or builds anything: wrong ones give one line and exit status 2.
set -u
demo=$(dirname "$0")/../script/demo
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
: >"$work/empty"

wrong() {
    expected=$1
    shift
    "$demo" "$@" >"$work/out" 2>"$work/err" </dev/null
    status=$?
    if [ $status -ne 2 ] || [ -s "$work/out" ] || [ "$(wc -l <"$work/err")" -ne 1 ] ||
        ! grep -q -e "$expected" "$work/err"; then
        echo "script/demo $*: exit status $status"
        cat "$work/out" "$work/err"
        exit 1
    fi
}

wrong "unknown argument '--bogus'" --bogus
wrong "unknown argument 'word'" --resume word
wrong 'a value must follow' --text
wrong "'' is empty" --text ''
wrong "'' is empty" --steps=
wrong "'x' is not a whole number" --steps x
wrong "'-1' is not a whole number" --seed=-1
wrong "'1.5' is not a whole number" --threads 1.5
wrong 'is too large' --steps 1000000000000000000
wrong 'takes no value' --resume=1
wrong "'gpu' is not cpu, ref or cuda" --device gpu
wrong "'cuda:x' is not cpu, ref or cuda" --device cuda:x
wrong 'missing: No such file' --device cuda --text "$work/missing"
wrong 'missing: No such file' --device=cuda:1 --text "$work/missing"
wrong 'missing: No such file' --text "$work/missing"
wrong 'is a directory' --text "$work"
wrong 'is empty' --text "$work/empty"
"$demo" --help | grep -q -e '--text FILE' || exit 1
