#!/bin/sh
# lorafit from a bundle: the bundled Node, and the libtorch of LORAFIT_LIBTORCH or of this machine's Python. `--node FILE` runs a
# script of the bundle, such as bench/gpu/run.js, in the same way.
here=$(dirname "$(readlink -f "$0")")
node=$here/bin/node
addon=$here/native/build/lorafit.node
mark=$here/native/build/fits

torch=$LORAFIT_LIBTORCH
[ -n "$torch" ] || torch=$(python3 -c 'import importlib.util as u; s = u.find_spec("torch"); print(s.submodule_search_locations[0] if s else "")' 2>/dev/null)
[ ! -d "$torch/torch/lib" ] || torch=$torch/torch
if [ -d "$torch/lib" ]; then
	LORAFIT_LIBTORCH=$torch
	LD_LIBRARY_PATH=$torch/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
	export LORAFIT_LIBTORCH LD_LIBRARY_PATH
fi

# Once for each libtorch: does the engine load? If not, it is built here.
if [ "$1" != doctor ] && [ "$1" != setup ] && [ -d "$torch/lib" ] && [ "$(cat "$mark" 2>/dev/null)" != "$torch" ]; then
	if ! "$node" -e 'require(process.argv[1])' "$addon" 2>/dev/null; then
		echo "The bundled engine does not fit this machine; building it anew." >&2
		rm -f "$here/native/build/stamp.json"
		"$node" "$here/dist/cli/main.js" setup >&2 || exit 1
	fi
	{ echo "$torch" >"$mark"; } 2>/dev/null || true
fi

if [ "$1" = --node ]; then
	script=$2
	shift 2
	exec "$node" "$here/$script" "$@"
fi
exec "$node" "$here/dist/cli/main.js" "$@"
