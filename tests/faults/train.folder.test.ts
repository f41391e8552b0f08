/** The files in an output folder describe the run that is there, and no other run. */
import { existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { beforeEach, describe, expect, it, vi } from "vitest";
import type { TrainInput } from "../../src/train/options/options.ts";
import { makeWorkplace, noticesOf, runWith } from "./trainRun.ts";

/** A disk that refuses to remove anything. */
const disk = vi.hoisted(() => ({ keepsAll: false }));
vi.mock("../../src/train/folder/sealedFolders.ts", async (original) => {
  const own = await original<typeof import("../../src/train/folder/sealedFolders.ts")>();
  const removeFolder: typeof own.removeFolder = async (path) => {
    if (disk.keepsAll) throw Object.assign(new Error(`EACCES: rename ${path}`), { code: "EACCES" });
    await own.removeFolder(path);
  };
  return { ...own, removeFolder };
});

const { folder, input } = await makeWorkplace();
let count = 0;
let output: string;
let options: TrainInput;
beforeEach(() => {
  output = join(folder, `run-${count++}`);
  options = { ...input, max_steps: 2, output };
});

/** Runs to the end, then adds files that later commands or a defect would leave. */
async function finishedRun(more: Partial<TrainInput> = {}): Promise<void> {
  await runWith({ ...options, ...more } as TrainInput);
  for (const name of ["report.html", "defects.jsonl", "defect-3.json"])
    writeFileSync(join(output, name), "of the first run");
}

describe("a new run in the folder of a finished one", () => {
  it("has nothing of it: all that speaks of the earlier run is in a folder of its own", async () => {
    await finishedRun();
    const before = readdirSync(output).sort();
    const { events } = await runWith({ ...options, seed: 7 } as TrainInput);
    const earlier = join(output, "earlier-1");
    expect(readdirSync(earlier).sort()).toEqual(before.filter((name) => name !== "run.lock"));
    expect(noticesOf(events)).toEqual([`the run that was in ${output} is now in ${earlier}`]);
    for (const name of readdirSync(output).filter((entry) => entry.includes(".")))
      expect(readFileSync(join(output, name), "utf8"), name).not.toBe("of the first run");
  });

  it("may start from its adapter, which moves only when it has been read", async () => {
    await finishedRun();
    const again = await runWith({ ...options, adapter: join(output, "adapter") } as TrainInput);
    expect(again).toMatchObject({ result: { ended: "finished" } });
  });

  it("leaves it where it is if the new one can't begin", async () => {
    await finishedRun();
    const before = readdirSync(output).sort();
    expect(await runWith({ ...options, data: join(folder, "none.jsonl") } as TrainInput)).toHaveProperty(
      "error",
    );
    expect(readdirSync(output).sort()).toEqual(before);
  });
});

it("a run that is started with resume, and finds a page but no checkpoint, moves the page away with its log", async () => {
  await finishedRun();
  for (const name of readdirSync(output).filter((entry) => entry.startsWith("checkpoint-")))
    rmSync(join(output, name), { recursive: true });
  await runWith({ ...options, resume: true } as TrainInput);
  expect(existsSync(join(output, "report.html"))).toBe(false);
  expect(readdirSync(join(output, "earlier-1"))).toEqual(
    expect.arrayContaining(["adapter", "report.html", "steps.jsonl"]),
  );
});

it("an old checkpoint that can't be removed is told of, and ends no run", async () => {
  disk.keepsAll = true;
  const { events, ...end } = await runWith({ ...options, save_every: 1, keep_checkpoints: 1 } as TrainInput);
  disk.keepsAll = false;
  expect(end).toMatchObject({ result: { ended: "finished" } });
  expect(noticesOf(events)).toEqual([
    "an old checkpoint can't be removed, and stays: you have no permission",
  ]);
});

it("a resumed run begins with the records of the steps before", async () => {
  await runWith({ ...options, max_steps: 4 } as TrainInput, { stopAfterMicroBatches: 3 });
  const { events } = await runWith({ ...options, max_steps: 4, resume: true } as TrainInput);
  const start = events.find((event) => event.fact === "start");
  expect(start?.stepsBefore.map(({ step }) => step)).toEqual([1, 2, 3]);
});

it("a run that can't learn, or not as usual, is told so at its start", async () => {
  const { events } = await runWith({
    ...options,
    ...{ max_steps: 1, warmup_steps: 1, lora_r: 2, lora_alpha: 64 },
  } as TrainInput);
  expect(noticesOf(events)).toEqual([
    expect.stringContaining("lora_alpha 64 at lora_r 2 scales what is learned by 32"),
    expect.stringContaining("nothing will be learned"),
  ]);
});
