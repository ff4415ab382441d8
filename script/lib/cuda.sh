# shellcheck shell=bash
# To be sourced after packages.sh, with the project's root as the working directory. need_cuda: makes sure that there is all that
# building and testing the CUDA backend without a GPU needs; what is missing comes from PyPI into build/venv-cuda, where CMake
# finds it (cmake/HeedCuda.cmake). A toolkit is taken from one place, so that its parts fit.

HEED_CUDA_VENV=build/venv-cuda
HEED_CUDA_TOOLKIT='nvidia-cuda-nvcc==13.0.88 nvidia-cuda-crt==13.0.88 nvidia-nvvm==13.0.88 nvidia-cuda-runtime==13.0.96
    nvidia-cuda-cccl==13.0.85 nvidia-cuda-nvrtc==13.0.88 nvidia-cublas==13.1.0.3 nvidia-cudnn-cu13==9.19.0.56'
# They read the code of any version; the first on PyPI.
HEED_CUDA_TOOLS='nvidia-cuda-cuobjdump==13.2.78 nvidia-cuda-nvdisasm==13.2.78'

# The folder of a whole toolkit: what $CUDACXX, the path or the usual place have.
cuda_toolkit() {
    local nvcc root header library
    nvcc=${CUDACXX:-$(command -v nvcc || echo /usr/local/cuda/bin/nvcc)}
    root=$(dirname "$(dirname "$nvcc")")
    [ -x "$nvcc" ] || return 1
    for header in driver_types cublasLt cudnn nvrtc; do
        [ -f "$root/include/$header.h" ] || return 1
    done
    for library in cudart cublasLt cudnn nvrtc; do
        [ -e "$root/lib64/lib$library.so" ] || [ -e "$root/lib/lib$library.so" ] || return 1
    done
    echo "$root"
}

# What makes one toolkit of the packages: cuDNN's among the others, the names without a version that linkers look for, and the
# folder where nvcc looks.
cuda_join() {
    local file
    for file in "$1"/../cudnn/include/*.h; do ln -sf "../../cudnn/include/$(basename "$file")" "$1/include/"; done
    for file in "$1"/../cudnn/lib/*; do ln -sf "../../cudnn/lib/$(basename "$file")" "$1/lib/"; done
    for file in "$1"/lib/lib*.so.*; do ln -sf "$(basename "$file")" "${file%.so.*}.so"; done
    ln -sfn lib "$1/lib64"
}

cuda_install() {
    need_packages python3-venv
    [ -x "$HEED_CUDA_VENV/bin/pip" ] || python3 -m venv "$HEED_CUDA_VENV"
    # shellcheck disable=SC2086 # several words are meant
    "$HEED_CUDA_VENV/bin/pip" install --quiet --disable-pip-version-check --no-deps $1 >&2
}

# Where PyPI's packages are.
cuda_ours() {
    echo "$PWD/$HEED_CUDA_VENV"/lib/python3*/site-packages/nvidia/cu13
}

need_cuda() {
    if ! cuda_toolkit >/dev/null; then
        [ -x "$(cuda_ours)/bin/nvcc" ] || cuda_install "$HEED_CUDA_TOOLKIT"
        cuda_join "$(cuda_ours)"
        CUDACXX=$(cuda_ours)/bin/nvcc
        export CUDACXX
        if ! cuda_toolkit >/dev/null; then
            echo "the toolkit from PyPI is not whole: $(cuda_ours)" >&2
            return 1
        fi
    fi
    if ! command -v cuobjdump >/dev/null && [ ! -x "$(cuda_toolkit)/bin/cuobjdump" ] &&
        [ ! -x "$(cuda_ours)/bin/cuobjdump" ]; then
        cuda_install "$HEED_CUDA_TOOLS"
    fi
}
