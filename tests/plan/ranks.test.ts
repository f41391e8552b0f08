/** A run that starts from an adapter with several ranks is planned with the rank of each module. */
import { join } from "node:path";
import { expect, it } from "vitest";
import { writeAdapter } from "../../src/checkpoint/adapter/peft.ts";
import { openModelFolder } from "../../src/checkpoint/folder.ts";
import { readModelConfig } from "../../src/models/families.ts";
import { adapterFromLora, createLora, disposeLora } from "../../src/models/lora.ts";
import { OFFICIAL_TARGETS } from "../../src/models/xcomposer2/spec.ts";
import { scope } from "../../src/torch/tensor.ts";
import { makeWorkplace, runWith } from "../faults/trainRun.ts";

it("plans to the byte from an adapter with a rank pattern", async () => {
  const { folder, model, input } = await makeWorkplace();
  const config = readModelConfig(openModelFolder(model));
  const lora = createLora(config, {
    ...{ rank: 2, ranks: { "layers.0.attention.wqkv": 16, "layers.1.feed_forward.w2": 8 }, alpha: 4 },
    ...{ dropout: 0, rslora: false, targets: OFFICIAL_TARGETS, seed: 1, device: "cpu", gradients: "none" },
  });
  const adapter = join(folder, "adapter");
  scope(() => writeAdapter(adapter, adapterFromLora(lora, model)));
  disposeLora(lora);

  const output = join(folder, "run");
  const started = { ...input, adapter, output, memory: 20_000_000, max_steps: 1, planned_step: true };
  const { events, ...end } = await runWith(started);
  expect(end).toMatchObject({ result: { ended: "finished" } });
  const [peaks] = events.flatMap((event) => (event.fact === "step" ? [event.peaks] : []));
  expect(peaks!.measured.device.bytes).toBe(peaks!.planned!.device.peakBytes);
});
