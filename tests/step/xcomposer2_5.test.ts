/** A step of InternLM-XComposer2.5 takes the memory that its plan says. */
import { afterAll, beforeAll, expect, it } from "vitest";
import { officialTargets, pictureFormOf } from "../../src/models/families.ts";
import { PRESETS, type XComposerConfig } from "../../src/models/xcomposer2/spec.ts";
import { batchOf } from "../../src/plan/dryRun/batchShapes.ts";
import type { Configuration } from "../../src/plan/dryRun/configuration.ts";
import { dryRun } from "../../src/plan/dryRun/dryRun.ts";
import { Policy } from "../../src/step/policy.ts";
import { getThreads, setThreads } from "../../src/torch/device.ts";
import { measuredStep } from "../helpers/measuredStep.ts";
import { POLICIES } from "../helpers/policyCases.ts";

const threads = getThreads();
beforeAll(() => setThreads(1)); // a plan counts the scratch of all threads, which need not work at once
afterAll(() => setThreads(threads));

const published = PRESETS["xcomposer2.5-7b"];
const config: XComposerConfig = {
  ...published,
  ...{ hidden: 32, layers: 4, heads: 4, kvHeads: 2, headDim: 8, ffn: 48, vocab: 97 },
  vision: { ...published.vision, hidden: 16, layers: 2, heads: 2, ffn: 20 },
};

it.each(["default", "the smallest working set"])("to the byte: %s", (name) => {
  const own = { rank: 4, dropout: 0, targets: officialTargets(config) };
  const sizes = { maxLength: 2000, pictureLimit: 3, imageShare: undefined, batchSize: 1 };
  const configuration: Configuration = {
    ...{ model: config, dtype: "float32", lora: own, target: "cpu", mapsWeights: false },
    policy: Policy.parse(POLICIES[name]),
    batch: batchOf({ ...own, ...sizes }, pictureFormOf(config)),
  };
  const { device, host } = dryRun(configuration);
  expect(measuredStep(configuration)).toMatchObject({ device: device.peakBytes, host: host.peakBytes });
});
