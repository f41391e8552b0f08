/** The --json output, which scripts depend on, for the reference cases. */
import { cpSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import sharp from "sharp";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { splitSamples } from "../../src/data/samples/split.ts";
import { trainTokenizer } from "../../src/data/text/tinyTokenizer.ts";
import { loadTokenizer } from "../../src/data/text/tokenizer.ts";
import { findShared, golden } from "../helpers/shared.ts";
import { lorafit, records } from "./lorafit.ts";

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "json-"));
});
afterAll(() => rmSync(folder, { recursive: true }));

const run = (...args: string[]) => records(lorafit([...args, "--json"], { cwd: folder }));
const readJson = (path: string) => JSON.parse(readFileSync(golden(path), "utf8"));
const tiny = golden("tiny");
const cases = golden("tiny_cases/cases.jsonl");
const adapter = golden("tiny_lora");
const official = findShared("golden/tokenizer/tokenizer.model");

describe("preview", () => {
  const picture = readJson("hd_pixels/cases.json").cases[0] as {
    input: string;
    output: string;
    hd_num: number;
  };

  it("of a picture: its grid, and the transformed picture as PNG", async () => {
    const input = golden(`hd_pixels/${picture.input}`);
    const shown = run("preview", "--image", input, "--hd-num", String(picture.hd_num), "--out", "out");
    const image = join("out", "a_grad_500x311.in.png");
    expect(shown).toEqual([{ width: 1008, height: 672, grid: { rows: 2, cols: 3 }, tokens: 1045, image }]);
    const [ours, official] = await Promise.all(
      [join(folder, image), golden(`hd_pixels/${picture.output}`)].map((path) =>
        sharp(path).raw().toBuffer(),
      ),
    );
    expect(ours!.equals(official!)).toBe(true);
  });

  it("of samples: ids, labels and text", () => {
    const [first] = readFileSync(cases, "utf8").split("\n");
    const { input_ids: inputIds, labels } = JSON.parse(first!);
    const shown = run("preview", "--model", tiny, "--data", cases);
    expect(shown).toHaveLength(5);
    expect(shown[0]).toEqual({ inputIds, labels, text: expect.any(String) });
  });
});

describe("tokenize", () => {
  const texts = ["Total: 12.50", " two  spaces", "Käse, 税込\n", ""];
  let file: string;
  beforeAll(() => {
    file = join(folder, "tokenizer.model");
    writeFileSync(file, trainTokenizer(texts, { vocabSize: 400 }));
  });

  it("writes an array of ids for each string", async () => {
    const tokenizer = await loadTokenizer(file);
    const input = texts.map((text) => `${JSON.stringify(text)}\n`).join("");
    const ran = lorafit(["tokenize", "--model", file, "--json"], { input });
    expect(records(ran)).toEqual(texts.map((text) => tokenizer.encode(text)));
  });

  it("names the line that is not a JSON string", () => {
    const { code, stderr } = lorafit(["tokenize", "--model", file, "--json"], { input: '"a"\nb\n' });
    expect({ code, stderr }).toEqual({ code: 1, stderr: expect.stringContaining("stdin:2: ") });
  });
});

it.skipIf(!official)("tokenize: the official ids of each string", () => {
  const texts = (readJson("tokenizer/cases.json") as { text: string; ids: number[] }[]).slice(0, 40);
  const input = texts.map(({ text }) => `${JSON.stringify(text)}\n`).join("");
  const ran = lorafit(["tokenize", "--model", official ?? "", "--json"], { input });
  expect(records(ran)).toEqual(texts.map(({ ids }) => ids));
});

it("eval: the official loss of each sample, and one of all", () => {
  const expected = readJson("tiny_cases/manifest.json").cases as {
    name: string;
    loss: number;
    n_label_positions: number;
  }[];
  const shown = run("eval", "--model", tiny, "--data", cases) as {
    index: number;
    loss: number;
    labelTokens: number;
  }[];
  const total = shown.pop();
  expect(Object.keys(total ?? {})).toEqual(["loss"]);
  for (const [index, sample] of shown.entries()) {
    expect(Object.keys(sample)).toEqual(["index", "loss", "labelTokens"]);
    expect(sample).toMatchObject({ index, labelTokens: expected[index]?.n_label_positions });
    expect(sample.loss).toBeCloseTo(expected[index]?.loss ?? Number.NaN, 4);
  }
  const labels = shown.reduce((sum, { labelTokens }) => sum + labelTokens, 0);
  const mean = shown.reduce((sum, { loss, labelTokens }) => sum + loss * labelTokens, 0) / labels;
  expect(total?.loss).toBeCloseTo(mean, 9);
});

it("eval --val-size: the samples that train sets aside, and no others", () => {
  const evaluated = (...args: string[]) =>
    (run("eval", "--model", tiny, "--data", cases, ...args) as { loss: number }[]).slice(0, -1);
  const all = evaluated();
  const sources = all.map(({ loss }, index) => ({ source: { file: cases, index }, loss }));
  const { validation } = splitSamples(sources, 2, 7);
  const losses = evaluated("--val-size", "2", "--seed", "7").map(({ loss }) => loss);
  expect(losses).toEqual(validation.map(({ loss }) => loss));
  expect(losses).toHaveLength(2);
});

it("eval --answers: each answer beside the expected one, by ids where there is no tokenizer", () => {
  const shown = run("eval", "--model", tiny, "--data", cases, "--answers") as { answers: object[] }[];
  const total = shown.pop();
  expect(Object.keys(total ?? {})).toEqual(["loss", "exactMatch", "metrics"]);
  for (const { answers } of shown)
    for (const answer of answers)
      expect(answer).toEqual({
        expectedIds: expect.any(Array),
        ids: expect.any(Array),
        exactMatch: expect.any(Number),
        metrics: { exact_match: expect.any(Number) },
      });
});

describe("generate", () => {
  it("answers as the official model does", () => {
    const prompts = readJson("generate/cases.json").cases as {
      input_ids: number[];
      image?: string;
      greedy: { ids: number[] };
      "greedy_rep_penalty_1.3": { ids: number[] };
    }[];
    const lines = prompts.map(({ input_ids: ids, image }) => {
      const inputIds = ids.flatMap((id, row) => (id !== -100 ? [id] : ids[row - 1] === -100 ? [] : [-200]));
      const images = image ? [golden(`generate/${image}`)] : [];
      return JSON.stringify({
        input_ids: inputIds,
        labels: inputIds.map(() => -100),
        images,
        hd_num: images.map(() => 1),
      });
    });
    writeFileSync(join(folder, "prompts.jsonl"), `${lines.join("\n")}\n`);
    const args = [
      "generate",
      "--model",
      tiny,
      "--data",
      "prompts.jsonl",
      "--max-new-tokens",
      "16",
      "--ignore-eos",
    ];
    expect(run(...args)).toEqual(
      prompts.map(({ greedy }, index) => ({ index, ids: greedy.ids, text: null })),
    );
    expect(run(...args, "--repetition-penalty", "1.3")).toEqual(
      prompts.map((prompt, index) => ({ index, ids: prompt["greedy_rep_penalty_1.3"].ids, text: null })),
    );
  });
});

describe("train", () => {
  const config = [
    `model: ${tiny}`,
    `data: ${cases}`,
    `adapter: ${adapter}`,
    ...[
      "lora_dropout: 0",
      "gradient_accumulation: 2",
      "max_steps: 2",
      "shuffle: false",
      "dtype: fp32",
      "device: cpu",
    ],
  ].join("\n");

  it("prints a record a step and leaves the adapter in output/adapter", () => {
    writeFileSync(join(folder, "train.yaml"), `${config}\noutput: run\n`);
    const steps = run("train", "--config", "train.yaml") as Record<string, number>[];
    expect(steps.map(({ step }) => step)).toEqual([1, 2]);
    for (const step of steps) {
      const keys = [
        "step",
        "loss",
        "gradNorm",
        "lr",
        "tokens",
        "tokensPerSecond",
        "peakBytes",
        "hostPeakBytes",
      ];
      expect(Object.keys(step)).toEqual(keys);
      expect(Object.values(step).every(Number.isFinite)).toBe(true);
    }
    expect(existsSync(join(folder, "run/adapter/adapter_model.safetensors"))).toBe(true);
  });

  it("takes the official names and gives the same bytes", () => {
    const args = `--model_name_or_path ${tiny} --data_path ${cases} --adapter ${adapter} --lora_dropout 0
      --gradient_accumulation_steps 2 --max_steps 2 --no-shuffle --dtype fp32 --device cpu --output_dir again`;
    run("train", ...args.split(/\s+/));
    const adapterOf = (output: string) =>
      readFileSync(join(folder, output, "adapter/adapter_model.safetensors"));
    expect(adapterOf("again").equals(adapterOf("run"))).toBe(true);
  });
});

it("merge: a checkpoint that computes what model and adapter do together", () => {
  const [merged] = run("merge", "--model", tiny, "--adapter", adapter, "--output", "merged") as {
    output: string;
    bytes: number;
  }[];
  expect(merged?.output).toBe("merged");
  const half = ["--output", "half", "--dtype", "bf16", "--device", "cpu"];
  expect(run("merge", "--model", tiny, "--adapter", adapter, ...half)).toEqual([
    { output: "half", bytes: merged!.bytes / 2 },
  ]);
  cpSync(cases, join(folder, "merged.jsonl"));
  const losses = (...args: string[]) =>
    (run("eval", "--data", cases, ...args) as { loss: number }[]).map(({ loss }) => loss);
  const apart = losses("--model", tiny, "--adapter", adapter);
  for (const [index, loss] of losses("--model", "merged").entries())
    expect(loss).toBeCloseTo(apart[index]!, 4);
});

it("tiny, pages, preview and chat work on what each other writes", () => {
  const [made] = run(
    "tiny",
    "--output",
    "small",
    "--hidden",
    "64",
    "--heads",
    "2",
    "--kv-heads",
    "1",
    "--ffn",
    "96",
  );
  expect(made).toEqual({ output: "small", parameters: expect.any(Number), bytes: expect.any(Number) });
  const size = ["--width", "320", "--height", "240"];
  expect(run("pages", "--output", "pages", "--count", "3", ...size)).toEqual([
    { output: "pages", pages: 3, data: join("pages", "data.txt") },
  ]);
  const overPages = lorafit(["pages", "--output", "pages"], { cwd: folder });
  expect(overPages).toMatchObject({
    code: 1,
    stderr: expect.stringContaining("pages is not an empty folder."),
  });
  const shown = run("preview", "--model", "small", "--data", "pages/data.txt") as { text: string }[];
  const two = lorafit(["preview", "--model", "small", "--data", "pages/data.txt", "--show", "2"], {
    cwd: folder,
  });
  expect(two.stdout.match(/pages\.json: sample/g)).toHaveLength(2);
  expect(two.stderr).toContain("shown in full: 2 of 3 samples");
  expect(shown.map(({ text }) => text)).toEqual(
    Array(3).fill(expect.stringMatching(/^<s>.*<ImageHere>.*<\/s>$/s)),
  );
  const evalArgs = ["eval", "--model", "small", "--data", "pages/data.txt", "--hd-num", "1", "--answers"];
  const { question, expected, answer } = (run(...evalArgs)[0] as { answers: Record<string, string>[] })
    .answers[0]!;
  expect(shown[0]!.text).toContain(`<ImageHere>${question}[`);
  expect(shown[0]!.text).toContain(`assistant\n${expected}[`);
  const chosen = lorafit([...evalArgs.slice(0, -1), "--metric", "cer", "field_f1"], { cwd: folder });
  expect(chosen.stdout).toMatch(/^3 samples in all {2}loss [\d.]+, CER [\d.]+$/m); // no answer is JSON
  const few = lorafit([...evalArgs, "--show", "1"], { cwd: folder });
  const printed = few.stdout.replaceAll(/[[\]]/g, ""); // without the marks of differences
  expect(printed).toContain(`\n  question  ${question}\n  expected  ${expected}\n  answer    `);
  expect(answer).toEqual(expect.any(String));
  expect(few.stdout.match(/^ {2}question/gm)).toHaveLength(1);
  expect(few.stderr).toContain("shown in full: 1 of 3 samples; --show N or --all prints more");
  expect(lorafit([...evalArgs, "--all"], { cwd: folder }).stdout.match(/^ {2}question/gm)).toHaveLength(3);
  const args = [
    "chat",
    "--model",
    "small",
    "--max-new-tokens",
    "3",
    "--ignore-eos",
    "--image",
    "pages/images/page-0001.png",
  ];
  const chat = lorafit([...args, "--hd-num", "1", "--json"], {
    cwd: folder,
    input: "What is it?\n/foo\nAnd?\n/quit\nno\n",
  });
  expect(records(chat)).toEqual(Array(2).fill({ ids: expect.any(Array), text: expect.any(String) }));
  expect(chat.stderr).toContain("There is no /foo.");
  expect(chat.stderr).not.toContain("Ask a question");
  const quoted = lorafit([...args, "--hd-num", "1"], {
    cwd: folder,
    input: "/help\n/image 'pages/images/page-0002.png'\n/image\n/quit\n",
  });
  expect(quoted.stderr).toMatch(/^Ask a question, or type \/image FILE, \/reset, \/help or \/quit\.$/m);
  expect(quoted.stderr).toMatch(/^\/reset +forget the conversation/m);
  expect(quoted.stderr).toContain("pages/images/page-0002.png (320 x 240) goes with the next question");
  expect(quoted.stderr).toContain("/image needs a file.");
});

it("doctor: one finding a line", () => {
  const { stdout } = lorafit(["doctor", "--json"]);
  const whats = stdout
    .split("\n")
    .filter(Boolean)
    .map((line) => JSON.parse(line).what);
  expect(whats).toEqual(["Node", "machine", "libtorch", "engine", "GPU", "models"]);
});
