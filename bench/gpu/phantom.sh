#!/usr/bin/env bash
# make bench-memory: peaks of the whole model on a card that computes nothing (tests/cuda/phantom/README.md), ours beside the peers' and
# under every cap. Arguments go to run.js. PYTHON names a Python with the peers' packages; bench/.venv's is taken unless said.
set -euo pipefail
cd "$(dirname "$0")/../.."

card=.cache/phantom-card
libtorch=$(node -p 'JSON.parse(require("fs").readFileSync("native/build/stamp.json")).libtorch.replace(/^.* in /, "")')
python=${PYTHON:-bench/.venv/bin/python}
out=bench/results/$(date +%F)-phantom-memory.md
[ -f "$libtorch/lib/libtorch_cuda.so" ] || { echo "$libtorch has no CUDA half; LORAFIT_CUDA=1 make build installs one that has" >&2; exit 1; }

export PHANTOM_NAME="NVIDIA H100 80GB HBM3" PHANTOM_MEMORY_BYTES=84933083955 OMP_WAIT_POLICY=passive
export TRITON_LIBCUDA_PATH=$PWD/$card TRITON_CACHE_DIR=$PWD/.cache/phantom-triton

# lorafit's kernels are compiled as on a card, else others run, which take other memory and, here, minutes.
nvrtc=$("$python" -c 'import glob, nvidia; print(*[f for p in nvidia.__path__ for f in glob.glob(p + "/**/libnvrtc.so.1?", recursive=True)][:1])' 2>/dev/null || true)
export LORAFIT_NVRTC=${LORAFIT_NVRTC:-$nvrtc}

# What bitsandbytes and Triton ask of the driver is found in their libraries. Triton compiles its own when it is first used: it finds a
# card then that lacks what it asks for, and is given one that has it.
bitsandbytes=$("$python" -c 'from importlib.util import find_spec as f; s = f("bitsandbytes"); print(*(s.submodule_search_locations if s else []))')
libraries=()
[ -z "$bitsandbytes" ] || libraries+=("$bitsandbytes"/libbitsandbytes_cuda130.so)
triton() { compgen -G "$TRITON_CACHE_DIR/*/cuda_utils*.so" || true; }
preloaded() { env LD_PRELOAD="$(echo "$PWD/$card"/*.so.*)" "$@"; }
build() { bash tests/cuda/phantom/build.sh "$libtorch" "$card" "$@"; }
if [ -z "$(triton)" ]; then
  build "${libraries[@]}"
  preloaded "$python" -c 'from triton.backends.nvidia.driver import CudaUtils; CudaUtils()' >/dev/null 2>&1 || true
fi
mapfile -t compiled < <(triton)
build "${libraries[@]}" "${compiled[@]}"

preloaded node bench-out/bench/gpu/run.js --memory --steps 1 --python "$python" --out "$out" "$@"
