import { expect, test } from "vitest";
import { DTYPES, type DType } from "../../src/torch/dtypes.ts";
import { SUMMED } from "../../src/torch/peers/peers.ts";
import { runRanks } from "../helpers/ranks/ranks.ts";
import type { Result } from "./collectives.rank.ts";
import { expected } from "./values.ts";

const BODY = new URL("./collectives.rank.ts", import.meta.url);
const dtypes = { summed: [...SUMMED], moved: Object.keys(DTYPES) as DType[] };

test.each([2, 3, 4])(
  "every collective of %i ranks equals plain arithmetic, for all dtypes",
  async (count) => {
    for (const elements of [1, 1000]) {
      const results = await runRanks<Result>(count, BODY, {
        args: { elements, ...dtypes },
        peers: { openTimeoutMs: 60_000 },
      });
      for (const [rank, { bytes, ...left }] of results.entries()) {
        expect(bytes).toEqual(expected(rank, count, elements, dtypes));
        expect(left).toEqual({ extraBytes: 0, leftBytes: 0, leftTensors: 0, pending: 0 });
      }
    }
  },
);
