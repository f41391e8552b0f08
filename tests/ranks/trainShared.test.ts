/** A run of several real processes with a shared base is that of one process with the whole base. */
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, it } from "vitest";
import { EVALS_FILE } from "../../src/train/folder/runLog.ts";
import type { TrainInput } from "../../src/train/options/options.ts";
import { hashesBelow, makeWorkplace, runWith } from "../faults/trainRun.ts";
import { runRanks } from "../helpers/ranks/ranks.ts";
import type { RankRun } from "./train.rank.ts";

const { folder, input } = await makeWorkplace();
const body = new URL("./train.rank.ts", import.meta.url);
const usual = {
  ...input,
  ...{ exact_sum: true, max_steps: 3, gradient_accumulation: 3, shuffle: true, lora_dropout: 0.2 },
  ...{ eval_data: input.data, eval_every: 2 },
};
const policy = join(folder, "shared.json");
const PARTS = { embeddings: "shared", head: "shared", vision: "shared" };
writeFileSync(policy, JSON.stringify({ ...PARTS, weights: { source: "shared" }, plora: "apart" }));
const apart = join(folder, "apart.json");
writeFileSync(apart, JSON.stringify({ plora: "apart" }));

/** Losses and scores of the evaluations. */
const evaluationsOf = (output: string): unknown =>
  readFileSync(join(output, EVALS_FILE), "utf8")
    .split("\n")
    .filter(Boolean)
    .map((line) => {
      const { loss, exactMatch, labelTokens } = JSON.parse(line);
      return { loss, exactMatch, labelTokens };
    });

it("the adapter has the same bytes on 2 and 3 ranks, and evaluations the same losses and answers", async () => {
  const one = join(folder, "one");
  const ended = await runWith({ ...usual, policy: apart, output: one } as TrainInput);
  if ("error" in ended) throw ended.error;
  for (const count of [2, 3]) {
    const output = join(folder, `${count} ranks`);
    await runRanks<RankRun>(count, body, { args: { options: { ...usual, policy, output } } });
    expect(hashesBelow(join(output, "adapter"))).toEqual(hashesBelow(join(one, "adapter")));
    expect(evaluationsOf(output)).toEqual(evaluationsOf(one));
  }
});
