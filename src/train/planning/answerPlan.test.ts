import fc from "fast-check";
import { expect, it } from "vitest";
import { smallConfig } from "../../../tests/helpers/randomModel.ts";
import { IGNORE } from "../../data/samples/sample.ts";
import type { PreparedSample } from "../../data/samples/validate.ts";
import { CACHE_GROWTH_TOKENS, KvCache } from "../../models/generation/kvCache.ts";
import type { AnswerShape } from "../../plan/dryRun/answerRun.ts";
import type { DryRun } from "../../plan/dryRun/dryRun.ts";
import { memoryStats, resetPeak } from "../../torch/device.ts";
import { planAnswers } from "./answerPlan.ts";

const MAX_POSITIONS = 900;
const config = smallConfig({ layers: 2, kvHeads: 1, headDim: 4, maxPositions: MAX_POSITIONS });

it("a plan's cache is never smaller than that of an answer it stands for, also where the model's positions end", () => {
  const asked = fc.record({
    promptTokens: fc.integer({ min: 1, max: MAX_POSITIONS - 1 }),
    answerTokens: fc.integer({ min: 1, max: 400 }),
  });
  fc.assert(
    fc.property(fc.array(asked, { minLength: 1, maxLength: 4 }), (all) => {
      const shapes: AnswerShape[] = [];
      planAnswers(all.map(sampleOf), [], (shape) => {
        shapes.push(shape);
        return { fits: true, run: {} as DryRun };
      });
      const { prompt, maxNewTokens } = shapes[0]!; // of all of them
      const planned = peakOf(sum(prompt.rows), maxNewTokens, (cache, tokens) => {
        cache.skipTo(tokens - 1); // as generateOnMeta() does
        if (tokens > sum(prompt.rows)) cache.reserve(1);
      });
      for (const { promptTokens, answerTokens } of all) {
        const taken = peakOf(promptTokens, 2 * answerTokens + 1, (cache, tokens) => {
          for (; cache.tokens < tokens; cache.advance(1)) cache.reserve(1);
        });
        expect(planned).toBeGreaterThanOrEqual(taken);
      }
    }),
    { numRuns: 60 },
  );
});

const sum = (values: readonly number[]): number => values.reduce((total, value) => total + value, 0);

/** Returns the peak in bytes of a cache that starts as that of generate() and is filled to the last token. */
function peakOf(
  promptTokens: number,
  maxNewTokens: number,
  fill: (cache: KvCache, tokens: number) => void,
): number {
  resetPeak("meta");
  const before = memoryStats("meta").liveBytes;
  const room = Math.min(maxNewTokens, MAX_POSITIONS - promptTokens);
  const capacityTokens = promptTokens + Math.min(room, CACHE_GROWTH_TOKENS);
  using cache = new KvCache(config, { dtype: "float32", device: "meta", capacityTokens });
  cache.advance(promptTokens);
  fill(cache, promptTokens + room - 1);
  return memoryStats("meta").peakBytes - before;
}

function sampleOf(
  { promptTokens, answerTokens }: { promptTokens: number; answerTokens: number },
  index: number,
) {
  const inputIds = new Int32Array(promptTokens + answerTokens).fill(3);
  const labels = inputIds.map((id, at) => (at < promptTokens ? IGNORE : id));
  const source = { file: "data", index };
  return {
    source,
    inputIds,
    labels,
    grids: [],
    images: [],
    tokens: inputIds.length,
  } as unknown as PreparedSample;
}
