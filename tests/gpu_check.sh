#!/bin/sh
# gpu_check.sh: what script/gpu-check does around its steps, on a build whose programs are scripts: which are run again, time
# that is up, what is missing, wrong arguments; and a pack, of programs of C.
set -u
source=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
build=$work/build
mkdir -p "$build/src" "$build/tests/cuda" "$build/bench" "$build/examples"
export HEED_TORCH_PYTHON=/nonexistent
for name in libheed_cuda.so libheed.so; do echo "$name" >"$build/src/$name"; done

fail() {
    echo "$1"
    cat "$work/out"
    exit 1
}

# program NAME LINE: of the build. Each counts its runs.
program() {
    printf '#!/bin/sh\necho %s >>"%s/runs"\n%s\n' "$1" "$work" "$2" >"$build/$1"
    chmod +x "$build/$1"
}

# check STATUS RUNS ARGUMENT...: its exit status, and the programs that it ran.
script=$source/script/gpu-check
check() {
    expected=$1 runs=$2
    shift 2
    : >"$work/runs"
    "$script" --build "$build" --out "$work/results" "$@" >"$work/out" 2>&1 </dev/null
    status=$?
    [ $status -eq "$expected" ] || fail "$*: exit status $status"
    [ "$(tr '\n' ' ' <"$work/runs")" = "$runs" ] || fail "$*: ran $(cat "$work/runs")"
}

says() {
    grep -q -e "$1" "$work/out" || fail "it does not say '$1'"
}

check 2 '' --bogus
check 2 '' --step nothing
check 2 '' --step mem
check 2 '' --limit 1.5
check 2 '' --build "$work/nowhere"
"$source/script/gpu-check" --list | grep -qx memcheck_ops_rows || exit 1

program tests/test_masks 'exit 0'
check 0 'tests/test_masks ' --step test_masks
says '^test_masks: passed, '
check 0 '' --step test_masks
says 'passed before'
check 0 'tests/test_masks ' --step test_masks --again
program tests/test_masks 'echo wrong; exit 1'
check 1 'tests/test_masks ' --step test_masks # another program
says '^test_masks: FAILED, '
says '^wrong$'
grep -q '"result": "failed", "passed": false, "status": 1,' "$work/results/test_masks.json" || fail 'no result'
program tests/test_masks 'exit 0'
check 0 'tests/test_masks ' --step test_masks
echo more >>"$build/src/libheed.so"
check 0 'tests/test_masks ' --step test_masks # another library

# The bench tells the device and its libraries, on what "device" has; that does not count as a run.
# shellcheck disable=SC2016 # the program is to expand it
bench() {
    cat >"$build/bench/heed-bench" <<TEXT
#!/bin/sh
case "\$*" in *--explain*) echo "\$LD_LIBRARY_PATH" >"$work/path"; cat "$work/device"; exit;; esac
echo bench/heed-bench >>"$work/runs"
cat "$work/lines"
TEXT
    chmod +x "$build/bench/heed-bench"
}
device() {
    printf '%s\n' 'device cuda, threads 1' "cuda:0 Fake, 2 multiprocessors of sm_90, $1 of 1024 MiB free, runtime 13.0, driver 13.0, $2" >"$work/device"
}
bench
device 700 'NVRTC is not there: no such file, cuDNN 9.18.0'
check 0 'tests/test_masks ' --step test_masks # libraries that were not known
device 600 'NVRTC is not there: no such file, cuDNN 9.18.0'
check 0 '' --step test_masks
device 600 'NVRTC is not there: no such file, cuDNN 9.19.0'
check 0 'tests/test_masks ' --step test_masks # another library of NVIDIA's
program tests/cuda/cuda_special 'exit 0'
check 0 '' --step special
says '^special: not run, '
says '^no NVRTC: cuda:0 Fake, .*NVRTC is not there'
device 600 'NVRTC 13.0, cuDNN 9.19.0'
check 0 'tests/cuda/cuda_special ' --step special

# compute-sanitizer beside the nvcc that is meant.
mkdir -p "$work/toolkit/bin" "$work/toolkit/lib64" "$work/bin"
program tests/test_update_kernels 'exit 0'
for tool in nvcc compute-sanitizer; do
    # shellcheck disable=SC2016 # the program is to expand it
    printf '#!/bin/sh\nshift 6\nexec "$@"\n' >"$work/toolkit/bin/$tool"
    chmod +x "$work/toolkit/bin/$tool"
done
ln -s "$work/toolkit/bin/nvcc" "$work/bin/nvcc"
path=$PATH PATH=$work/bin:$PATH
check 0 'tests/test_update_kernels ' --step memcheck_update_kernels
grep -qF "$work/toolkit/lib64" "$work/path" || fail 'the libraries of a toolkit are not found'

# A Python that has PyTorch and libraries of NVIDIA's: another version of it, and the step is run again.
mkdir -p "$work/packages/nvidia/cudnn/lib" "$work/packages/nvidia/cu13/lib"
cat >"$work/python" <<TEXT
#!/bin/sh
case "\$*" in
    *sysconfig*) echo "$work/packages" ;;
    *'import torch'*) cat "$work/torch" ;;
    *torch_bench.py*) echo torch_bench >>"$work/runs" ;;
esac
TEXT
chmod +x "$work/python"
HEED_TORCH_PYTHON=$work/python
: >"$work/lines"
echo 2.10 >"$work/torch"
turns='bench/heed-bench torch_bench bench/heed-bench torch_bench '
check 0 "$turns" --step torch_f32
grep -q "^$work/packages/nvidia/cudnn/lib:$build/src:.*:$work/packages/nvidia/cu13/lib" "$work/path" || fail "libraries are looked for in $(cat "$work/path")"
check 0 '' --step torch_f32
echo 2.11 >"$work/torch"
check 0 "$turns" --step torch_f32
HEED_TORCH_PYTHON=/nonexistent PATH=$path
check 0 '' --step torch_f32
says '^PyTorch with CUDA: not there'

# All programs of a step in one time; what passed is not run again.
for name in cudnn cudnn_dropout mixed; do program tests/cuda/cuda_$name 'exit 0'; done
program tests/cuda/cuda_cudnn_dropout 'sleep 20'
check 1 'tests/cuda/cuda_cudnn tests/cuda/cuda_cudnn_dropout ' --step cudnn --limit 4
says '^cudnn: out of time, '
says '^0 failed, 1 out of time'
check 1 'tests/cuda/cuda_cudnn_dropout ' --step cudnn --limit 4
program tests/cuda/cuda_cudnn_dropout 'exit 0'
check 0 'tests/cuda/cuda_cudnn tests/cuda/cuda_cudnn_dropout tests/cuda/cuda_mixed ' --step cudnn
program tests/cuda/cuda_cudnn 'echo "not run: no cuDNN (libcudnn.so.9 cannot be opened)"; exit 77'
check 0 'tests/cuda/cuda_cudnn ' --step cudnn
says '^cudnn: not run, '
says 'no cuDNN (libcudnn.so.9 cannot be opened)'
check 0 'tests/cuda/cuda_cudnn ' --step cudnn # and again, since it did not pass

cat >"$work/lines" <<'TEXT'
{"case": "memory_add", "median_ms": 0.5, "gb_per_s": 400.0, "gflop_per_s": 0, "peak_gb_per_s": 500.0, "peak_gflop_per_s": 2000.0, "peak_source": "driver"}
{"case": "softmax", "median_ms": 0.5, "gb_per_s": 200.0, "gflop_per_s": 0, "peak_gb_per_s": 500.0, "peak_gflop_per_s": 2000.0, "peak_source": "driver"}
{"case": "product", "median_ms": 2, "gb_per_s": 0, "gflop_per_s": 1500, "peak_gb_per_s": 500.0, "peak_gflop_per_s": 2000.0, "peak_source": "driver"}
TEXT
check 0 'bench/heed-bench ' --step bench
cp "$work/results/bench.log" "$work/out"
says '^peaks: 500 GB/s (driver), 2.0 TFLOP/s'
says '^softmax  *0.5000  *200.0  *40.0 %  *50.0 % *$'
says '^product  *2.0000  *1.5  *75.0 %$'

# A pack has the runtime that its library is linked with, and runs where the build is no more. Here the programs are all one,
# which says what the runtime is.
rm -rf "$build"
mkdir -p "$build/src" "$build/tests/cuda" "$build/bench" "$build/examples" "$work/runtime"
cd "$work" || exit 1
echo 'const char *fake_runtime(void) { return "13.0, of a pack"; }' >runtime.c
echo 'const char *fake_runtime(void); const char *fake_device(void) { return fake_runtime(); }' >library.c
echo 'const char *fake_device(void); int puts(const char *); int main(void) { puts(fake_device()); }' >program.c
{
    "${CC:-cc}" -shared -fPIC -Wl,-soname,libcudart.so.13 -o runtime/libcudart.so.13 runtime.c &&
        "${CC:-cc}" -shared -fPIC -Wl,-soname,libheed_cuda.so,--no-as-needed,-rpath,"$work/runtime" -o "$build/src/libheed_cuda.so" library.c runtime/libcudart.so.13 &&
        "${CC:-cc}" -Wl,-rpath,"$build/src" -Wl,-rpath-link,runtime -o "$build/bench/heed-bench" program.c "$build/src/libheed_cuda.so"
} >out 2>&1 || fail 'the programs of a pack cannot be built'
for name in examples/gpt tests/cuda/cuda_special tests/cuda/cuda_cudnn tests/cuda/cuda_cudnn_dropout tests/cuda/cuda_mixed \
    $(sed 's|^|tests/test_|' "$source/tests/cuda/suites.txt"); do
    cp "$build/bench/heed-bench" "$build/$name"
done
check 0 '' --pack "$work/pack.tar.gz"
mkdir away && tar -C away -xf pack.tar.gz || exit 1
rm -rf "$build" runtime
build=$work/away/gpu-check/build script=$work/away/gpu-check/script/gpu-check
check 0 '' --step device
grep -q '13.0, of a pack' "$work/results/device.log" || fail 'a pack does not run'
