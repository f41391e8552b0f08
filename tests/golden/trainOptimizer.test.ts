/** Runs whose optimizer works in 8 bits or on the host: what they learn, and how they continue. */
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { openSafetensors } from "../../src/checkpoint/files/safetensors.ts";
import type { StepRecord } from "../../src/train/folder/runLog.ts";
import type { TrainInput } from "../../src/train/options/options.ts";
import { hashesBelow, noticesOf, runWith } from "../faults/trainRun.ts";
import { GOLDEN_DATA } from "../helpers/goldenBatch.ts";
import { golden } from "../helpers/shared.ts";

type State = { place: "device" | "host"; precision: "fp32" | "8bit" };
type DType = "fp32" | "bf16";

type RunInput = TrainInput & { output: string };

const folder = mkdtempSync(join(tmpdir(), "train-optimizer-"));
afterAll(() => rmSync(folder, { recursive: true }));

const STEPS = 6;
const STOP = 3;
/** Returns a run's options. Rank 80 gives the larger factors more than 4096 elements. */
const optionsOf = (name: string, optimizer: State, dtype: DType): RunInput => ({
  ...{ model: golden("tiny"), data: GOLDEN_DATA, output: join(folder, name), device: "cpu", threads: 1 },
  ...{ dtype, lora_r: 80, lora_alpha: 80, lora_dropout: 0, learning_rate: 1e-3, warmup_steps: 0 },
  ...{ shuffle: false, max_steps: STEPS, gradient_accumulation: 1, save_every: 1000 },
  policy: { optimizer },
});

interface Outcome {
  losses: number[];
  adapter: ReturnType<typeof hashesBelow>;
  notices: string[];
}

async function run(input: RunInput, stopAfterMicroBatches?: number): Promise<Outcome> {
  const done = await runWith(input, stopAfterMicroBatches === undefined ? {} : { stopAfterMicroBatches });
  if ("error" in done) throw done.error;
  const records = done.events.flatMap((event): StepRecord[] =>
    event.fact === "step" ? [event.record] : [],
  );
  return {
    losses: records.map(({ loss }) => loss),
    adapter: hashesBelow(join(input.output, "adapter")),
    notices: noticesOf(done.events),
  };
}

const known = new Map<string, Promise<Outcome>>();
/** Returns the outcome of a run that was never stopped; each is run once. */
function wholeRun(state: State, dtype: DType): Promise<Outcome> {
  const name = `${state.precision} ${state.place} ${dtype}`;
  const found = known.get(name) ?? run(optionsOf(name, state, dtype));
  known.set(name, found);
  return found;
}

describe.each(["fp32", "bf16"] as const)("computing in %s", (dtype) => {
  it.each(["fp32", "8bit"] as const)(
    "%s moments on the host give the same adapter as on the device",
    async (precision) => {
      const onHost = await wholeRun({ place: "host", precision }, dtype);
      const onDevice = await wholeRun({ place: "device", precision }, dtype);
      expect(onHost).toEqual(onDevice);
    },
  );
});

it("8-bit moments follow the loss of fp32 ones within 1 % while it falls to less than a hundredth", async () => {
  const data = join(folder, "text.jsonl");
  writeFileSync(data, `${readFileSync(GOLDEN_DATA[0]!, "utf8").split("\n")[0]}\n`);
  const lossesOf = async (precision: State["precision"]): Promise<number[]> => {
    const options = optionsOf(`text ${precision}`, { place: "device", precision }, "fp32");
    const { losses } = await run({ ...options, data, max_steps: 30 });
    return losses;
  };
  const [fp32, codes] = [await lossesOf("fp32"), await lossesOf("8bit")];
  expect(fp32.at(-1)).toBeLessThan(0.01 * fp32[0]!);
  expect(codes).not.toEqual(fp32);
  const off = codes.map((loss, step) => Math.abs(loss / fp32[step]! - 1));
  expect(Math.max(...off)).toBeLessThan(0.01);
});

describe("a run that was stopped", () => {
  it.each([
    ["device", "8bit", "fp32"],
    ["host", "8bit", "bf16"],
    ["host", "fp32", "bf16"],
  ] as const)("with its state on the %s in %s goes on to the same bytes", async (place, precision, dtype) => {
    const input = optionsOf(`stopped ${place} ${precision}`, { place, precision }, dtype);
    await run(input, STOP);
    const checkpoint = openSafetensors(join(input.output, `checkpoint-${STOP}`, "optimizer.safetensors"));
    expect(checkpoint.names.some((name) => name.endsWith(".codes"))).toBe(precision === "8bit");
    checkpoint.close();
    const { adapter, notices } = await run({ ...input, resume: true });
    expect(adapter).toEqual((await wholeRun({ place, precision }, dtype)).adapter);
    expect(notices).toEqual([]);
  });

  it.each([
    [
      { place: "device", precision: "fp32" },
      { place: "host", precision: "8bit" },
    ],
    [
      { place: "host", precision: "8bit" },
      { place: "device", precision: "fp32" },
    ],
  ] as const)("with %j goes on with %j, and says so", async (before, after) => {
    const name = `${before.precision} to ${after.precision}`;
    await run(optionsOf(name, before, "bf16"), STOP);
    const { losses, notices } = await run({ ...optionsOf(name, after, "bf16"), resume: true });
    expect(notices).toEqual([
      expect.stringContaining(`moments were saved as ${before.precision} and continue as ${after.precision}`),
    ]);
    const whole = await wholeRun(before, "bf16");
    losses.forEach((loss, index) => {
      expect(Math.abs(loss / whole.losses[index + STOP]! - 1), `step ${index + STOP + 1}`).toBeLessThan(0.01);
    });
    expect(readdirSync(join(folder, name))).toContain("adapter");
  });

  it("with its state on the device goes on with it on the host to the same bytes, without a word", async () => {
    const onDevice = { place: "device", precision: "fp32" } as const;
    await run(optionsOf("moved", onDevice, "bf16"), STOP);
    const moved = { ...optionsOf("moved", { ...onDevice, place: "host" }, "bf16"), resume: true };
    const { adapter, notices } = await run(moved);
    expect(notices).toEqual([]);
    expect(adapter).toEqual((await wholeRun(onDevice, "bf16")).adapter);
  });
});
