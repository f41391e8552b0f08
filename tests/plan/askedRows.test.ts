/**
 * A run is planned for the sample with the earliest first label. Samples with a later first label must not
 * need more memory.
 */
import { describe, expect, it } from "vitest";
import { OFFICIAL_TARGETS } from "../../src/models/xcomposer2/spec.ts";
import type { Configuration } from "../../src/plan/dryRun/configuration.ts";
import { dryRun } from "../../src/plan/dryRun/dryRun.ts";
import { findDevice } from "../../src/plan/time/cards.ts";
import { Policy } from "../../src/step/policy.ts";
import { smallConfig } from "../helpers/randomModel.ts";

const TOKENS = 900;
const STEP = ["forward", "loss", "backward"];
const model = smallConfig({ layers: 2 });

const TARGETS: Record<string, Pick<Configuration, "target" | "dtype">> = {
  "the CPU": { target: "cpu", dtype: "bfloat16" },
  "the CPU in float32": { target: "cpu", dtype: "float32" },
  "a card with flash attention": { target: findDevice("h100-80gb"), dtype: "bfloat16" },
  "a card without": { target: findDevice("v100-32gb"), dtype: "float16" },
};

const POLICIES = {
  default: {},
  lean: { headGroups: 2, mlpTileTokens: 512, reuseAttention: false, attentionInput: "recomputed" },
  kept: { layers: [{ count: 2, keep: "all" }] },
};

describe.each(Object.keys(TARGETS))("on %s", (name) => {
  it.each(Object.keys(POLICIES))("a later first label takes no more memory: %s", (policy) => {
    const peaks = (askedTokens: number): number[] => {
      const { phases } = dryRun({
        ...TARGETS[name]!,
        model,
        lora: { rank: 4, dropout: 0, targets: OFFICIAL_TARGETS },
        batch: { samples: 1, sampleTokens: TOKENS, pictures: [], labelTokens: 9, askedTokens },
        policy: Policy.parse(POLICIES[policy as keyof typeof POLICIES]),
        mapsWeights: false,
      });
      return phases.filter((phase) => STEP.includes(phase.name)).map((phase) => phase.devicePeakBytes);
    };
    let before = peaks(TOKENS); // with one row less, saving rows costs less than rounding queries apart from keys adds
    for (const asked of [850, 600, 300, 10]) {
      const now = peaks(asked);
      now.forEach((bytes, phase) => {
        expect(bytes, `${STEP[phase]}, ${asked} rows`).toBeLessThanOrEqual(before[phase]!);
      });
      before = now;
    }
  });
});
