#!/bin/sh
# examples.sh PROGRAM DEVICE: an example takes the same few steps on the CPU and on a device, which must end in the same losses
# but for rounding: each number within 0.0002 of the other, or of the loss curve's digits 1e-5 of it.
set -u
program=$1 device=$2
name=$(basename "$program")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1

case $name in
    mlp) options='--steps 10' ;;
    sort) options='--steps 3 --tests 100' ;;
    translate) options='--steps 2 --tests 64' ;;
    custom_layer) options='--steps 10' ;;
    custom_attention) options='--steps 5' ;;
    gpt)
        yes 'And the earth was without form, and void; and darkness was upon the face of the deep.' | head -n 300 >text
        options='--steps 2 --quick --text text --out out' ;;
    *) echo "$name: not known here" && exit 1 ;;
esac

# losses OUTPUT: the numbers to compare, one a line. A line on progress in between may be there or not.
losses() {
    case $name in
        gpt) sed 1d out/loss.csv | tr , '\n' ;;
        custom_layer) sed -n 's/^.* mean squared error \([^ ]*\) in .*, \([^ ]*\) in .*/\1\n\2/p' "$1" ;;
        custom_attention) sed -n 's/^mean squared error //p; s/^head . looks *\([^ ]*\) back.*/\1/p' "$1" ;;
        *) sed -n 's/^step \([0-9]*\)\/\1 .*loss \([^ ]*\) .*/\2/p' "$1" ;;
    esac
}

for where in cpu "$device"; do
    # shellcheck disable=SC2086 # several words are meant
    if ! HEED_LOG=1 "$program" $options --device "$where" >"$where.out" 2>"$where.err" </dev/null; then
        cat "$where.out" "$where.err"
        exit 1
    fi
    losses "$where.out" >"$where.losses"
done
if ! grep -q '^cuda:0 ' "$device.err"; then
    echo "$name: not by the CUDA backend:" && cat "$device.err"
    exit 1
fi
paste cpu.losses "$device.losses" | awk -v name="$name" '
    NF == 2 && $1 ~ /^-?[0-9.]+$/ && $2 ~ /^-?[0-9.]+$/ {
        d = $1 - $2
        size = $1 < 0 ? -$1 : $1
        limit = name == "gpt" ? 1e-5 * size : 2e-4
        if (d > limit || -d > limit) { print name ": " $1 " on the CPU, " $2 " on the device"; bad = 1 }
        compared++
        next
    }
    NF > 0 { print name ": no pair of losses: " $0; bad = 1 }
    END {
        if (!compared) print name ": no losses"
        exit bad || !compared
    }'
