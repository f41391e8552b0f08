#!/usr/bin/env bash
# build.sh LIBTORCH BUILD [LIBRARY ...]: builds into BUILD the CUDA libraries that
# LIBTORCH/lib/libtorch_cuda.so needs, and those that each LIBRARY needs, for example bitsandbytes'. The
# sources beside this file implement some of the functions. All other functions report "not supported".
set -euo pipefail
libtorch=$(realpath "$1")
mkdir -p "$2"
build=$(realpath "$2")
shift 2
users=("$libtorch"/lib/lib{torch_cuda,c10_cuda,torch_python,torch_nvshmem,torch_cuda_linalg,caffe2_nvrtc}.so)
for library in "$@"; do users+=("$(realpath "$library")"); done
cd "$(dirname "$0")"
headers=$(ls -d "$libtorch"/../nvidia/*/include | head -1)
compile=(g++ -std=c++20 -O2 -g -fPIC -Wall -Wextra -I. -isystem "$headers")

# Columns: soname; version of its symbols; pattern of its symbols without a version; source that implements
# some of them.
libraries="
libcudart.so.13        libcudart.so.13     -            runtime
libcuda.so.1           -                   ^cu[A-Z]     driver
libcublas.so.13        libcublas.so.13     -            blas
libcublasLt.so.13      libcublasLt.so.13   -            blas_lt
libcudnn.so.9          libcudnn.so.9       -            -
libcusparse.so.12      libcusparse.so.12   -            -
libcufft.so.12         libcufft.so.12      -            -
libcusolver.so.12      libcusolver.so.12   -            -
libcurand.so.10        libcurand.so.10     -            -
libcufile.so.0         -                   ^cuFile      -
libcusparseLt.so.0     -                   ^cusparseLt  -
libnccl.so.2           -                   ^nccl        -
libnvshmem_host.so.3   NVSHMEM             ^nvshmem_    -
"

"${compile[@]}" -c card.cc -o "$build/card.o" &
"${compile[@]}" -c absent.cc -o "$build/absent.o" &
for source in runtime driver blas blas_lt; do "${compile[@]}" -c $source.cc -o "$build/$source.o" & done
wait
g++ -shared -Wl,-soname,libphantom.so "$build/card.o" "$build/absent.o" -o "$build/libphantom.so"

for library in "${users[@]}"; do
  nm -D --undefined-only "$library"
done | awk '{ print $NF }' | sort -u > "$build/needed"

while read -r soname version pattern source; do
  [ -n "$soname" ] || continue
  name=$build/${soname%%.so*}
  objects=()
  [ "$source" = - ] || objects=("$build/$source.o")
  {
    [ "$version" = - ] || sed -n "s/@@*$version\$//p" "$build/needed"
    [ "$pattern" = - ] || { grep -v @ "$build/needed" || true; } | { grep -E "$pattern" || true; }
  } | sort -u > "$name.names"
  { [ "$source" = - ] || nm -g --defined-only "$build/$source.o" | awk '{ print $NF }'; } | sort -u > "$name.have"
  {
    echo 'int phantom_absent(const char *name);'
    comm -23 "$name.names" "$name.have" | sed -E \
      -e 's/.*(String|Name)$/const char *&(void) { return "the phantom card has none of this"; }/;t' \
      -e 's/.*/int &(void) { return phantom_absent("&"); }/'
  } > "$name.absent.c"
  gcc -O1 -fPIC -w -c "$name.absent.c" -o "$name.absent.o"
  versioned=()
  if [ "$version" != - ]; then
    echo "$version { global: *; };" > "$name.map"
    versioned=("-Wl,--version-script=$name.map")
  fi
  g++ -shared "-Wl,-soname,$soname" "${versioned[@]}" "${objects[@]}" "$name.absent.o" \
    -L"$build" -lphantom '-Wl,-rpath,$ORIGIN' -o "$build/$soname"
done <<< "$libraries"
rm -f "$build"/*.o "$build"/*.names "$build"/*.have "$build"/*.map "$build"/*.absent.c "$build/needed"
