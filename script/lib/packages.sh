# shellcheck shell=sh
# To be sourced. need_packages PACKAGE...: makes sure that Debian packages are there, and installs those that are not.
# Needs root or sudo for that; on a system without apt it says what to install and returns 1.

# What building needs, and what testing needs beyond it.
HEED_BUILD_PACKAGES="gcc libc6-dev cmake ninja-build pkg-config libopenblas-pthread-dev libjansson-dev libpng-dev"
# shellcheck disable=SC2034 # for those who source this
HEED_TEST_PACKAGES="$HEED_BUILD_PACKAGES g++ check"

# Whether what a package brings is there, from wherever it came.
have_package() {
    case $1 in
        gcc) command -v cc ;;
        g++) command -v c++ ;;
        cmake) command -v cmake ;;
        ninja-build) command -v ninja ;;
        pkg-config) command -v pkg-config ;;
        libopenblas-pthread-dev) pkg-config --exists openblas ;;
        libjansson-dev) pkg-config --exists jansson ;;
        libpng-dev) pkg-config --exists libpng ;;
        check) pkg-config --exists check ;;
        python3-venv) python3 -c 'import ensurepip, venv' ;;
        bible-kjv) command -v bible ;;
        clang | clang-format | clang-tidy | doxygen | shellcheck | valgrind) command -v "$1" ;;
        *) dpkg-query -W -f '${Status}' "$1" 2>/dev/null | grep -q ' installed$' ;;
    esac >/dev/null 2>&1
}

need_packages() {
    missing=
    for package in "$@"; do
        have_package "$package" || missing="$missing $package"
    done
    [ "$missing" ] || return 0
    if ! command -v apt-get >/dev/null; then
        echo "Please install (the names are Debian's):$missing" >&2
        return 1
    fi
    as_root=
    if [ "$(id -u)" != 0 ]; then
        if ! command -v sudo >/dev/null; then
            echo "Please install, as root: apt-get install$missing" >&2
            return 1
        fi
        as_root=sudo
    fi
    echo "Installing$missing" >&2
    apt_log=$(mktemp)
    # shellcheck disable=SC2086 # several words are meant
    if $as_root apt-get update -qq >"$apt_log" 2>&1 </dev/null &&
        $as_root env DEBIAN_FRONTEND=noninteractive \
            apt-get install -y -qq --no-install-recommends $missing >>"$apt_log" 2>&1 </dev/null; then
        rm -f "$apt_log"
    else
        cat "$apt_log" >&2
        rm -f "$apt_log"
        echo "apt-get could not install:$missing" >&2
        return 1
    fi
}
