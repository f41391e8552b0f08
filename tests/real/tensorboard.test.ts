/** Real TensorBoard reads the event files that a run writes: its reader's library, and its server. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import sharp from "sharp";
import { expect, it } from "vitest";
import type { AnswerRecord, EvalRecord, StepRecord } from "../../src/train/folder/runLog.ts";
import { inVenv, pythonJson, startServer } from "./python.ts";
import { makeWorkshop } from "./tinyRuns.ts";

const workshop = makeWorkshop();
const STEPS = 8;

interface Events {
  scalars: Record<string, [step: number, value: number][]>;
  images: Record<string, [step: number, width: number, height: number, base64: string][]>;
  texts: Record<string, [step: number, text: string][]>;
}

const READ = `
import base64, json, sys
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
events = EventAccumulator(sys.argv[1], size_guidance={"scalars": 0, "images": 0, "tensors": 0})
events.Reload()
tags = events.Tags()
print(json.dumps({
  "scalars": {tag: [[e.step, e.value] for e in events.Scalars(tag)] for tag in tags["scalars"]},
  "images": {tag: [[e.step, e.width, e.height, base64.b64encode(e.encoded_image_string).decode()] for e in events.Images(tag)] for tag in tags["images"]},
  "texts": {tag: [[e.step, e.tensor_proto.string_val[0].decode()] for e in events.Tensors(tag)] for tag in tags["tensors"]
            if events.SummaryMetadata(tag).plugin_data.plugin_name == "text"},
}))`;

const linesOf = <T>(file: string): T[] =>
  readFileSync(file, "utf8")
    .trimEnd()
    .split("\n")
    .map((line) => JSON.parse(line) as T);

/** A run that was killed between two checkpoints, and continued: it repeats steps. */
const output = await (async () => {
  const flags = ["--report-to", "tensorboard", "--max-steps", String(STEPS), "--save-every", "3"];
  const all = [...flags, "--eval-data", workshop.evalData, "--eval-every", "4"];
  const run = workshop.start("run", all);
  await run.steps(5);
  run.child.kill("SIGKILL");
  await run.exit;
  return workshop.train("run", [...all, "--resume"]);
})();
const steps = linesOf<StepRecord>(join(output, "steps.jsonl"));
const evals = linesOf<EvalRecord>(join(output, "evals.jsonl"));
const events = pythonJson<Events>(READ, join(output, "tensorboard"));

it("has the numbers of each step once, though steps came twice", () => {
  const all = Array.from({ length: STEPS }, (_, index) => index + 1);
  for (const tag of [
    "train/loss",
    "train/grad_norm",
    "train/learning_rate",
    "train/tokens_per_second",
    "train/peak_bytes",
  ])
    expect(
      events.scalars[tag]!.map(([step]) => step),
      tag,
    ).toEqual(all);
  const close = (records: readonly number[], tag: string): void => {
    for (const [at, value] of records.entries()) expect(events.scalars[tag]![at]![1]).toBeCloseTo(value, 4);
  };
  close(
    steps.map(({ loss }) => loss),
    "train/loss",
  );
  close(
    steps.map(({ lr }) => lr),
    "train/learning_rate",
  );
  expect(events.scalars["train/peak_bytes"]!.map(([, value]) => value)).toEqual(
    steps.map(({ peakBytes }) => Math.fround(peakBytes)),
  );
});

it("has the evaluations with their metrics", () => {
  expect(events.scalars["eval/loss"]!.map(([step]) => step)).toEqual(evals.map(({ step }) => step));
  for (const [at, { loss, exactMatch }] of evals.entries()) {
    expect(events.scalars["eval/loss"]![at]![1]).toBeCloseTo(loss, 4);
    expect(events.scalars["eval/exact_match"]![at]![1]).toBeCloseTo(exactMatch, 4);
  }
});

it("has the options and the answers as text", () => {
  expect(events.texts["options/text_summary"]![0]).toEqual([0, expect.stringContaining("max_steps: 8")]);
  const answers = linesOf<AnswerRecord>(join(output, "answers.jsonl")).filter(({ step }) => step === STEPS);
  const [, text] = events.texts["eval/answers/text_summary"]!.at(-1)!;
  expect(text.split("\n")).toHaveLength(2 + answers.length);
  for (const { expected } of answers)
    expect(text.replace(/&#(\d+);/g, (_, code) => String.fromCharCode(code))).toContain(expected);
});

it("has the pictures of the evaluated samples, with their tiles, at a modest size", async () => {
  const tags = Object.keys(events.images);
  expect(tags).toEqual(["eval/sample 0", "eval/sample 1", "eval/sample 2"]);
  for (const tag of tags) {
    const [, width, height, base64] = events.images[tag]![0]!;
    const picture = await sharp(Buffer.from(base64, "base64")).metadata();
    expect([picture.width, picture.height]).toEqual([width, height]);
    expect(Math.max(width, height)).toBeLessThanOrEqual(720);
    expect(Math.min(width, height)).toBeGreaterThan(200);
  }
});

it("is served by TensorBoard: scalars without steps that stand twice, texts and pictures", async () => {
  const server = startServer(inVenv("tensorboard"), [
    "--logdir",
    output,
    "--host",
    "127.0.0.1",
    "--port",
    "0",
  ]);
  const origin = await server.until(() => /(http:\/\/127\.0\.0\.1:\d+)\//.exec(server.told())?.[1]);
  const get = async (path: string): Promise<unknown> => (await fetch(`${origin}/data/${path}`)).json();
  await server.until(async () => {
    const runs = (await get("runs")) as string[];
    return runs.includes("tensorboard") || undefined;
  });
  const loss = await server.until(async () => {
    const points = await get("plugin/scalars/scalars?run=tensorboard&tag=train%2Floss").catch(
      () => undefined,
    );
    return Array.isArray(points) && points.length >= STEPS
      ? (points as [number, number, number][])
      : undefined;
  });
  expect(loss.map(([, step]) => step)).toEqual(steps.map(({ step }) => step));
  const texts = (await get("plugin/text/text?run=tensorboard&tag=options%2Ftext_summary")) as {
    text: string;
  }[];
  expect(texts[0]!.text).toContain("max_steps: 8");
  const tag = encodeURIComponent("eval/sample 0");
  const images = (await get(`plugin/images/images?run=tensorboard&tag=${tag}&sample=0`)) as {
    query: string;
  }[];
  const picture = await fetch(`${origin}/data/plugin/images/individualImage?${images[0]!.query}`);
  expect(picture.headers.get("content-type")).toBe("image/jpeg");
  expect((await picture.arrayBuffer()).byteLength).toBeGreaterThan(1000);
});
