#!/bin/sh
# examples.sh DIRECTORY NAME: runs an example with few steps, and uses it wrongly in every way.
set -u
programs=$1 name=$2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1

fail() {
    echo "$name: $1"
    echo "--- standard output"
    tail -n 20 out
    echo "--- standard error"
    tail -n 20 err
    exit 1
}

# run STATUS ARGUMENT...: the program ends with this status. If it is 0, nothing is said on standard error; otherwise one
# line is.
run() {
    expected=$1
    shift
    "$programs/$name" "$@" >out 2>err </dev/null
    status=$?
    [ "$status" -eq "$expected" ] || fail "$*: exit status $status, not $expected"
    lines=$(wc -l <err)
    if [ "$expected" -eq 0 ]; then
        [ ! -s err ] || fail "$*: said something on standard error"
    else
        [ "$lines" -eq 1 ] || fail "$*: $lines lines on standard error, not 1"
    fi
}

says() {
    grep -a -q -e "$1" out err || fail "'$1' is missing"
}

run 2 --bogus && says "unknown argument '--bogus'"
run 2 word && says "unknown argument 'word'"
run 2 --steps && says 'a value must follow'
run 2 --steps x && says "'x' is not a whole number"
run 2 --steps -1 && says 'not a whole number'
run 2 --seed 99999999999999999999 && says 'too large'
run 2 --help=1 && says 'takes no value'
run 0 --help && says '--steps N'
if [ "$name" != gpt ]; then # which first asks for a text
    run 2 --device gpu && says 'no device "gpu"'
fi
"$programs/$name" --help >/dev/full 2>err && fail 'help into a full disk went well'

mlp() {
    run 0 --steps 30 --seed 3
    says '^data: ' && says 'held-out pictures'
    pixels=$(printf '0,%.0s' $(seq 64))
    for i in $(seq 50); do echo "$pixels$((i % 10))"; done >digits
    run 0 --steps 2 --data digits && says '^data: 50 pictures from digits' && says 'of 10 held-out'
    gzip -c digits >digits.gz
    run 0 --steps 2 --data digits.gz && says '^data: 50 pictures from digits.gz'
    head -c 60 digits.gz >cut.gz
    run 2 --data cut.gz
    run 2 --data missing && says 'missing cannot be opened'
    : >empty
    run 2 --data empty && says 'fewer than 10'
    for line in 1,2,3 "${pixels}10" "${pixels}x" "17,${pixels#0,}1" "${pixels}-1" "nan,${pixels#0,}1"; do
        { cat digits && echo "$line"; } >wrong
        run 2 --data wrong && says 'a line is not'
    done
}

sort() {
    run 0 --steps 5 --seed 3
    says ' becomes ' && says 'held-out rows'
}

translate() {
    run 0 --steps 3 --seed 3
    says '^four hundred' && says 'held-out numbers'
}

custom_layer() {
    run 0 --steps 20 --seed 3
    says 'difference quotient' && says '^snake' && says '^tanh'
}

custom_attention() {
    run 0 --steps 20 --seed 3
    says 'difference quotient' && says '^head 2 looks' && says '^mean squared error'
}

gpt() {
    yes 'And the earth was without form, and void; and darkness was upon the face of the deep.' | head -n 300 >text
    run 0 --text text --out one --steps 4
    says 'unigram entropy [0-9]' && says 'validation loss [0-9]' && says 'words .* occur in the text: [0-9]* % of [0-9]'
    for file in checkpoint.safetensors loss.csv loss.png attention.png; do
        [ -s "one/$file" ] || fail "$file was not written"
    done
    [ "$(find one -type f | wc -l)" -eq 4 ] || fail 'more files than said'
    # Beyond any goal is a failure that says so; 0 steps only look at what was learned.
    "$programs/gpt" --text text --out one --steps 4 --resume --goal-loss 0.001 >out 2>err
    [ $? -eq 1 ] || fail 'a goal that is not reached'
    run 0 --text text --out one --steps 0 --resume

    # Stopped and resumed, it comes to the same numbers and the same bytes.
    run 0 --text text --out whole --steps 30
    rm out
    "$programs/gpt" --text text --out parts --steps 30 >out 2>err &
    tries=0
    until grep -q '^step' out 2>/dev/null || [ $tries -eq 600 ]; do sleep 0.1 && tries=$((tries + 1)); done
    kill -INT $!
    wait $!
    status=$?
    [ $status -eq 130 ] || fail "interrupted: exit status $status, not 130"
    says 'resume goes on'
    run 0 --text text --out parts --steps 30 --resume
    cmp whole/loss.csv parts/loss.csv || fail 'the resumed run came to other losses'
    cmp whole/checkpoint.safetensors parts/checkpoint.safetensors || fail 'the resumed run came to other weights'

    run 2 && says 'text FILE must be given'
    run 2 --text missing && says 'missing: cannot be opened: No such file'
    run 2 --text . && says 'directory'
    : >empty
    run 2 --text empty && says 'empty is too short'
    echo 'In the beginning' >short
    run 2 --text short && says 'short is too short'
    # What was not learned may be any byte: none of them commands a terminal.
    run 0 --text text --out one --steps 0
    LC_ALL=C tr -d '\n\t\r\f\v -~\200-\377' <out >control
    [ ! -s control ] || fail 'control characters in the output'
    run 2 --text text --device gpu && says 'no device "gpu"'
    run 2 --text text --threads 100000
    run 2 --text text --out /dev/null && says '/dev/null'
    run 2 --text text --out missing/folder && says 'missing/folder'
    if [ "$(id -u)" -ne 0 ]; then
        mkdir readonly && chmod 555 readonly
        run 2 --text text --out readonly && says 'readonly is no folder to write into'
    fi
    run 2 --text text --out new --resume && says 'checkpoint.safetensors'
    { cat text && echo more; } >other
    run 2 --text other --out one --resume && says 'another text or model'
    head -c 1000 one/checkpoint.safetensors >new/checkpoint.safetensors
    run 2 --text text --out new --resume && says 'checkpoint.safetensors'
    echo nonsense >one/loss.csv
    run 2 --text text --out one --resume && says 'loss.csv: line 1'
    # A full disk.
    (ulimit -f 16 && run 1 --text text --out full --steps 1 && says 'checkpoint.safetensors: ') || exit 1
    [ ! -e full/checkpoint.safetensors ] || fail 'half a checkpoint'
    "$programs/gpt" --text text --out one --steps 1 >/dev/full 2>err
    [ $? -eq 1 ] || fail 'no room for the output'
}

"$name"
