#!/usr/bin/env bash
# Installs vggdist for GPUs:  launch/gpu/install.sh [FOLDER]
# creates the virtual environment FOLDER (default .venv; an existing one must not have vggdist for CPUs) and checks it.
# Needs Python 3.11 with venv, g++, make, and nvcc of CUDA 11: in $CUDA_HOME/bin if that is set, else on PATH, in
# /usr/local/cuda-11.* or where Debian installs it: docs/install.md
# launch/gpu/install.sh --dry-run   lists what would be installed, and fails if the versions are not compatible
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
project=$(cd "$here/../.." && pwd)
horovod=$(sed -n 's/^ *"\(horovod==[0-9.]*\)",$/\1/p' "$project/pyproject.toml")
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

fail() {
    echo "install.sh: $1" >&2
    exit 2
}

# Arguments of uv for all packages except Horovod and vggdist. The project's configuration of uv is for CPUs, so it is not used.
everything=(pip install --no-config --override "$here/overrides.txt" -r "$here/requirements.txt" -r "$project/pyproject.toml")

main() {
    command -v python3.11 >/dev/null || fail "python3.11 is not on PATH: MXNet 1.9.1 needs it; install it with its venv module"
    if [ "${1:-}" = --dry-run ]; then
        make_environment "$scratch/venv"
        uv "${everything[@]}" --dry-run
        return
    fi
    local tool cuda compiler
    for tool in g++ make; do
        command -v "$tool" >/dev/null || fail "$tool is not on PATH, and Horovod is compiled here: apt install g++ make"
    done
    cuda=$(find_cuda)
    compiler=$(find_compiler "$cuda")
    make_environment "${1:-.venv}"
    uv "${everything[@]}"
    link_libraries
    find_driver "$cuda"
    build_horovod "$cuda" "$compiler"
    uv pip install --no-config --no-deps --editable "$project"
    "$venv/bin/python" "$here/check.py"
    echo "Installed. Next: source $venv/bin/activate && python -m vggdist.doctor"
}

make_environment() {
    python3.11 -m venv "$1"
    venv=$(cd "$1" && pwd)
    site=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    local other
    for other in "$site"/mxnet-[0-9]*.dist-info; do
        [ ! -e "$other" ] || fail "$venv has mxnet for CPUs, which writes the same folder as mxnet-cu112: give another one"
    done
    "$venv/bin/pip" install -q uv==0.13.8
}

uv() {
    VIRTUAL_ENV=$venv "$venv/bin/uv" "$@"
}

# The folder above bin/nvcc of CUDA 11.
find_cuda() {
    local nvcc release seen=
    while read -r nvcc; do
        release=$("$nvcc" --version 2>/dev/null | sed -n 's/.*release \([0-9.]*\),.*/\1/p') || continue
        case $release in
        11.*)
            dirname "$(dirname "$nvcc")"
            return
            ;;
        esac
        seen="$seen $nvcc is of CUDA $release;"
    done < <(
        if [ -n "${CUDA_HOME:-}" ]; then
            echo "$CUDA_HOME/bin/nvcc"
        else
            type -aP nvcc || true
            printf '%s\n' /usr/local/cuda-11.*/bin/nvcc /usr/lib/nvidia-cuda-toolkit/bin/nvcc
        fi
    )
    fail "there is no nvcc of CUDA 11, with which Horovod is compiled;$seen see docs/install.md, \"GPUs\""
}

# A g++ that this nvcc supports: CUDA 11.8 supports versions up to 11.
find_compiler() {
    local compiler
    : >"$scratch/empty.cu"
    for compiler in $(type -P "${CXX:-g++}" g++-11 g++-10 g++-9); do # a path, as CMake requires
        if PATH=$1/bin:$PATH nvcc -ccbin "$compiler" -c "$scratch/empty.cu" -o "$scratch/empty.o" >"$scratch/log" 2>&1; then
            echo "$compiler"
            return
        fi
    done
    fail "$1/bin/nvcc works with none of g++, g++-11, g++-10, g++-9 ($(grep -m1 error "$scratch/log")): apt install g++-11"
}

# MXNet's library looks for other libraries in its own folder first, before LD_LIBRARY_PATH.
link_libraries() {
    local library
    for library in "$site"/nvidia/*/lib/lib*.so*; do
        ln -sf "..${library#"$site"}" "$site/mxnet/"
    done
    ln -sf libnvrtc.so.11.2 "$site/mxnet/libnvrtc.so" # cuBLAS opens it by this name, and would use another CUDA's
}

# The build of Horovod imports MXNet, which needs the driver's library. Where an image is built there may be no driver.
find_driver() {
    local stub
    ! "$venv/bin/python" -c 'import ctypes; ctypes.CDLL("libcuda.so.1")' 2>/dev/null || return 0
    for stub in "$1"/lib64/stubs/libcuda.so /usr/lib/x86_64-linux-gnu/stubs/libcuda.so; do
        if [ -e "$stub" ]; then
            ln -s "$stub" "$scratch/libcuda.so.1"
            export LD_LIBRARY_PATH=$scratch${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
            echo "There is no NVIDIA driver here: building and checking with CUDA's stub of it. Runs will need the driver."
            return
        fi
    done
    fail "there is neither an NVIDIA driver (libcuda.so.1) nor CUDA's stub of it; install the driver"
}

build_horovod() {
    mkdir "$scratch/nccl"
    ln -s "$site/nvidia/nccl/lib/libnccl.so.2" "$scratch/nccl/libnccl.so"
    # No cache: a Horovod that was built for CPUs has the same name.
    # Code for the GPUs that mxnet-cu112 supports. The run path leads from the installed Horovod to MXNet and NCCL.
    PATH="$venv/bin:$1/bin:$PATH" \
        CXX="$2" CC="${2/g++/gcc}" MAKEFLAGS="${MAKEFLAGS:--j$(nproc)}" \
        HOROVOD_WITH_MXNET=1 HOROVOD_WITHOUT_TENSORFLOW=1 HOROVOD_WITHOUT_PYTORCH=1 \
        HOROVOD_GPU_OPERATIONS=NCCL HOROVOD_CUDA_HOME="$1" HOROVOD_BUILD_CUDA_CC_LIST=50,60,70,80,86 \
        HOROVOD_NCCL_INCLUDE="$site/nvidia/nccl/include" HOROVOD_NCCL_LIB="$scratch/nccl" HOROVOD_NCCL_LINK=SHARED \
        LDFLAGS="-Wl,-rpath,\$ORIGIN/../../mxnet" \
        uv pip install --no-config --no-cache --no-deps --no-build-isolation --reinstall "$horovod"
}

main "$@"
