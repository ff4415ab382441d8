# shellcheck shell=bash
# To be sourced, with the project's root as the working directory. heed_build DIR [CMAKE OPTION...]: configures and
# builds quietly; on failure shows what was said and returns 1.

heed_cores() {
    nproc 2>/dev/null || getconf _NPROCESSORS_ONLN
}

heed_build() {
    local dir=$1 log
    shift
    mkdir -p "$dir"
    log=$dir/build.log
    if ! { cmake -S . -B "$dir" -G Ninja "$@" && cmake --build "$dir" --parallel "$(heed_cores)"; } \
        >"$log" 2>&1 </dev/null; then
        grep -vE '^\[[0-9]+/[0-9]+\] (Building|Linking)|^-- ' "$log" | tail -n 80 >&2
        echo "the build failed; all of it is in $log" >&2
        return 1
    fi
}
