/**
 * The copy of the gradients that a run with gradient accumulation keeps. `lorafit plan` counts the copy as
 * the run does.
 */
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, it } from "vitest";
import { answerOf } from "../../src/answer/answerOf.ts";
import { PlanOptions } from "../../src/answer/options.ts";
import { questionOf } from "../../src/answer/question.ts";
import { planLines } from "../../src/cli/run/planLines.ts";
import { Policy } from "../../src/step/policy.ts";
import type { TrainInput } from "../../src/train/options/options.ts";
import { makeWorkplace, runWith } from "../faults/trainRun.ts";

const TOKENS = 300;
/** Bytes of the float32 factors of rank 2, for every linear of two layers. */
const COPY_BYTES = 6_400;

const { folder, input } = await makeWorkplace();
const data = join(folder, "text.jsonl");
const input_ids = Array.from({ length: TOKENS }, (_, at) => 3 + (at % 90));
writeFileSync(data, `${JSON.stringify({ input_ids, labels: input_ids })}\n`);
const policyFile = join(folder, "policy.json");
writeFileSync(
  policyFile,
  JSON.stringify(Policy.parse({ headGroups: 2, layers: [{ count: 2, keep: "all" }] })),
);

const options: TrainInput = {
  ...{ ...input, data, policy: policyFile, lora_dropout: 0.05, max_steps: 1, planned_step: true },
  memory: 20_000_000,
};

/** Returns the peaks of both pools that `lorafit plan` reports. */
function plannedWith(accumulation: number, host_memory: number | undefined) {
  const asked = PlanOptions.parse({
    ...{ model: input.model, device: "cpu", policy: policyFile, image_share: 0, lora_r: 2 },
    ...{ max_length: TOKENS, gradient_accumulation: accumulation },
  });
  const question = questionOf({ ...asked, memory: 20_000_000, host_memory });
  const { plan } = answerOf(question);
  return { device: plan.deviceBytes, host: plan.hostPoolBytes };
}

it.each([
  { place: "host", host_memory: undefined },
  { place: "device", host_memory: 0 },
] as const)(
  "a plan's peaks are those of the run, with the copy on the $place",
  async ({ place, host_memory }) => {
    const found = [];
    for (const gradient_accumulation of [1, 4]) {
      const output = join(folder, `${place}-${gradient_accumulation}`);
      const { events, ...end } = await runWith({ ...options, gradient_accumulation, host_memory, output });
      expect(end).toMatchObject({ result: { ended: "finished" } });
      const [peaks] = events.flatMap((event) => (event.fact === "step" ? [event.peaks] : []));
      const planned = plannedWith(gradient_accumulation, host_memory);
      expect({ device: peaks!.planned!.device.peakBytes, host: peaks!.planned!.host.peakBytes }).toEqual(
        planned,
      );
      expect({ device: peaks!.measured.device.bytes, host: peaks!.measured.host.bytes }).toEqual(planned);
      found.push(planned);
    }
    const [one, four] = found;
    expect(four![place] - one![place]).toBe(COPY_BYTES);
  },
);

it("a run tells of the copy in the lines of its plan, and of none where a step has one micro-batch", async () => {
  for (const gradient_accumulation of [1, 4]) {
    const output = join(folder, `lines-${gradient_accumulation}`);
    const given = { ...options, policy: undefined, gradient_accumulation, output };
    const { events } = await runWith(given);
    const [plan] = events.flatMap((fact) => (fact.fact === "plan" ? [fact] : []));
    const isCopied = gradient_accumulation > 1;
    expect(plan!.gradientCopy).toEqual(isCopied ? { place: "host", bytes: COPY_BYTES } : undefined);
    const told = planLines(plan!).filter((line) => line.includes("a copy of the gradients"));
    expect(told).toEqual(isCopied ? [expect.stringMatching(/6\.3 KiB.* host/)] : []);
  }
});
