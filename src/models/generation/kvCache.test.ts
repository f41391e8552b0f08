import fc from "fast-check";
import { expect, test } from "vitest";
import { randomTensor, smallConfig } from "../../../tests/helpers/randomModel.ts";
import { cat } from "../../torch/create.ts";
import { memoryStats } from "../../torch/device.ts";
import { scope, type Tensor } from "../../torch/tensor.ts";
import { CACHE_GROWTH_TOKENS, KvCache } from "./kvCache.ts";

const config = smallConfig({ layers: 2, kvHeads: 3, headDim: 4 });

test("what was written, in parts of any size and by any groups of heads, is read back in order", () => {
  const part = fc.record({
    tokens: fc.integer({ min: 1, max: 300 }),
    firstGroupHeads: fc.integer({ min: 1, max: 3 }),
  });
  const parts = fc.array(part, { minLength: 1, maxLength: 4 });
  fc.assert(
    fc.property(parts, fc.integer({ min: 1, max: 300 }), (written, capacityTokens) => {
      scope(() => {
        using cache = new KvCache(config, { dtype: "float32", device: "cpu", capacityTokens });
        const all: Tensor[][] = [[], []];
        for (const [index, { tokens, firstGroupHeads }] of written.entries()) {
          cache.reserve(tokens);
          for (const layer of [0, 1]) {
            const rows = randomTensor([tokens, 3, 4], 10 * index + layer, { dtype: "float32" }); // (t, G, D)
            all[layer]!.push(rows);
            writeByGroups(cache, layer, rows, firstGroupHeads);
          }
          cache.advance(tokens);
        }
        for (const layer of [0, 1]) {
          const expected = cat(all[layer]!).transpose(0, 1); // (G, S, D)
          const { keys, values } = cache.read(layer, 0);
          expect(keys.shape).toEqual([3, cache.tokens, 4]);
          expect(keys.toFloat32Array()).toEqual(expected.toFloat32Array());
          expect(values.toFloat32Array()).toEqual(expected.mul(2).toFloat32Array());
        }
      });
    }),
    { numRuns: 20 },
  );
});

test("it grows by whole steps, and gives every byte back", () => {
  const beforeBytes = memoryStats("cpu").liveBytes;
  const layerBytes = (tokens: number) => 2 * 3 * tokens * 4 * 4;
  const cache = new KvCache(config, { dtype: "float32", device: "cpu", capacityTokens: 10 });
  expect(memoryStats("cpu").liveBytes - beforeBytes).toBe(2 * layerBytes(10));
  cache.reserve(10);
  expect(memoryStats("cpu").liveBytes - beforeBytes).toBe(2 * layerBytes(10));
  cache.reserve(11);
  expect(memoryStats("cpu").liveBytes - beforeBytes).toBe(2 * layerBytes(10 + CACHE_GROWTH_TOKENS));
  cache[Symbol.dispose]();
  expect(memoryStats("cpu").liveBytes).toBe(beforeBytes);
});

test("it never grows past the last position of the model", () => {
  const beforeBytes = memoryStats("meta").liveBytes;
  const tokensHeld = () => (memoryStats("meta").liveBytes - beforeBytes) / (2 * 2 * 3 * 4 * 4);
  const asked = { dtype: "float32", device: "meta", capacityTokens: 10 } as const;
  using cache = new KvCache({ ...config, maxPositions: 300 }, asked);
  const held = [tokensHeld()];
  for (let token = 0; token < 300; token++) {
    cache.reserve(1);
    cache.advance(1);
    if (tokensHeld() !== held.at(-1)) held.push(tokensHeld());
  }
  expect(held).toEqual([10, 10 + CACHE_GROWTH_TOKENS, 300]);
});

/** Values are twice the keys. */
function writeByGroups(cache: KvCache, layer: number, rows: Tensor, firstGroupHeads: number): void {
  for (const [firstHead, heads] of [
    [0, firstGroupHeads],
    [firstGroupHeads, 3 - firstGroupHeads],
  ] as const) {
    const keys = rows.narrow(1, firstHead, heads);
    if (heads > 0) cache.write(layer, firstHead, { keys, values: keys.mul(2) });
  }
}
