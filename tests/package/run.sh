#!/bin/sh
# usage: run.sh CMAKE GENERATOR BUILD_DIR CC: installs the build into a folder of its own, moves it, builds main.c against it there.
set -eu
cmake=$1 generator=$2 build=$3 cc=$4
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

DESTDIR='' "$cmake" --install "$build" --prefix "$work/first" >/dev/null
mv "$work/first" "$work/heed" # the package must not know where it was installed to

"$cmake" -G "$generator" -S "$here" -B "$work/user" -DCMAKE_C_COMPILER="$cc" -DCMAKE_PREFIX_PATH="$work/heed" >/dev/null
"$cmake" --build "$work/user" >/dev/null
"$work/user/user_shared"
"$work/user/user_static"

if command -v pkg-config >/dev/null; then
    PKG_CONFIG_PATH=$(dirname "$(find "$work/heed" -name heed.pc)")
    export PKG_CONFIG_PATH
    # shellcheck disable=SC2046 # several words are meant
    "$cc" -std=c11 "$here/main.c" -o "$work/by_pkg_config" \
        $(pkg-config --cflags --libs heed_kit heed)
    LD_LIBRARY_PATH=$(pkg-config --variable=libdir heed) "$work/by_pkg_config"
fi

# Nothing but heed's own names is exported.
library=$(find "$work/heed" -name 'libheed.so' | head -n 1)
foreign=$(nm -D --defined-only "$library" | awk '$2 ~ /[TDBRVW]/ && $3 !~ /^heed_/ { print $3 }')
if [ -n "$foreign" ]; then
    printf 'libheed.so exports names that are not its own:\n%s\n' "$foreign"
    exit 1
fi
