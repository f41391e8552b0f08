#!/bin/sh
# lorafit from a bundle: the bundled Node, and the libtorch of LORAFIT_LIBTORCH or of this machine's Python. `--node FILE` runs a
# script of the bundle, such as bench/gpu/run.js, in the same way.
here=$(dirname "$(readlink -f "$0")")
node=$here/bin/node
mark=$here/native/build/fits
LORAFIT_PROGRAM=$0 # messages name commands as they were given
export LORAFIT_PROGRAM

torch=$LORAFIT_LIBTORCH
[ -n "$torch" ] || [ ! -d "$here/.libtorch/torch/lib" ] || torch=$here/.libtorch # what `./lorafit setup` has installed
[ -n "$torch" ] || torch=$(python3 -c 'import importlib.util as u; s = u.find_spec("torch"); print(s.submodule_search_locations[0] if s else "")' 2>/dev/null)
[ -z "$torch" ] || [ ! -d "$torch/torch/lib" ] || torch=$torch/torch
[ -n "$torch" ] && [ -d "$torch/lib" ] || torch=
if [ -n "$torch" ]; then
	LORAFIT_LIBTORCH=$torch
	LD_LIBRARY_PATH=$torch/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
	export LORAFIT_LIBTORCH LD_LIBRARY_PATH
fi

# Once for each libtorch: is it one of the right release, and does the engine load with it, all symbols bound at once, so that one that
# is missing shows now and not in the midst of a run? If not, set-up says what is wrong or builds the engine here.
check='const { findLibtorch, loadAddon } = await import(process.argv[1]); findLibtorch(); loadAddon()'
if [ "$1" != doctor ] && [ "$1" != setup ] && [ -n "$torch" ] && [ "$(cat "$mark" 2>/dev/null)" != "$torch" ]; then
	if ! LD_BIND_NOW=1 "$node" --input-type=module -e "$check" "$here/dist/torch/install/libtorch.js" 2>/dev/null; then
		echo "The engine of this bundle does not load with the libtorch in $torch." >&2
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
