/** Streamed weights are on the device when a layer needs them, and no longer. */
import { afterAll, expect, it } from "vitest";
import { disposeModel } from "../../src/models/weights.ts";
import { backwardVisits, forwardVisits, layerSource } from "../../src/step/layerWeights.ts";
import { Policy, placesOf } from "../../src/step/policy.ts";
import { memoryStats } from "../../src/torch/device.ts";
import { randomModel, smallConfig } from "../helpers/randomModel.ts";

const LAYERS = 5;
const config = smallConfig({ layers: LAYERS });
const policy = Policy.parse({ weights: { source: "streamed" } });
const model = randomModel(config, { dtype: "float32", places: placesOf(policy) });
afterAll(() => disposeModel(model));

const onDeviceBytes = (): number => memoryStats("cpu").liveByCategory.weights;
const beforeBytes = onDeviceBytes();

it.each([0, 1, 2])("a layer is evicted at once after use, with %i fetched ahead", (aheadLayers) => {
  using source = layerSource(model, aheadLayers);
  source.begin([0]);
  source.enter(0);
  const layerBytes = onDeviceBytes() - beforeBytes;
  expect(layerBytes).toBeGreaterThan(0);
  source.leave();
  expect(onDeviceBytes()).toBe(beforeBytes);
  const boundaries = Array.from({ length: LAYERS }, () => ({ boundary: "host" as const }));
  for (const order of [forwardVisits(LAYERS), backwardVisits(boundaries)]) {
    source.begin(order);
    order.forEach((layer, visit) => {
      source.enter(layer);
      const toCome = order.length - visit - 1;
      expect(onDeviceBytes() - beforeBytes).toBe(layerBytes * (1 + Math.min(aheadLayers, toCome)));
      source.leave();
      expect(onDeviceBytes() - beforeBytes).toBe(layerBytes * Math.min(aheadLayers, toCome));
    });
  }
});
