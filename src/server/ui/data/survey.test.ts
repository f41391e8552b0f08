import { execFileSync } from "node:child_process";
import { mkdirSync, mkdtempSync, realpathSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import sharp from "sharp";
import { beforeAll, describe, expect, it } from "vitest";
import { DEFAULT_RULES, pictureForm } from "../../../data/pictures/forms.ts";
import { UserError } from "../../../errors.ts";
import { realPathBelow } from "../../http/paths.ts";
import type { Survey, SurveyReply } from "./dataApi.ts";
import { findData } from "./findData.ts";
import type { DataReader } from "./readData.ts";
import { drawnPicture, sampleViews } from "./sampleViews.ts";
import { surveyData } from "./survey.ts";

const root = realpathSync(mkdtempSync(join(tmpdir(), "survey-")));
const folder = join(root, "page");
const outside = join(root, "outside");

/** A sample of token ids: so many of them, the last one learned. */
function sample(tokens: number, more: object = {}) {
  const labels = Array.from({ length: tokens }, (_, row) => (row === tokens - 1 ? 7 : -100));
  return { input_ids: Array.from({ length: tokens }, () => 7), labels, ...more };
}

function withPicture(path: string) {
  return { input_ids: [1, -200, 7], labels: [-100, -100, 7], images: [path] };
}

function writeLines(name: string, records: readonly object[]): void {
  writeFileSync(join(folder, name), records.map((record) => `${JSON.stringify(record)}\n`).join(""));
}

beforeAll(async () => {
  mkdirSync(join(folder, "runs", "1"), { recursive: true });
  mkdirSync(outside);
  const picture = sharp({ create: { width: 600, height: 300, channels: 3, background: "#ddd" } });
  await picture.png().toFile(join(folder, "page.png"));
  await picture.png().toFile(join(outside, "secret.png"));
  symlinkSync(join(outside, "secret.png"), join(folder, "link.png"));
});

function reader(file: string): DataReader {
  return {
    folder,
    file,
    tokenizer: undefined,
    vocabSize: 100,
    form: pictureForm(DEFAULT_RULES),
    pictureLimit: 4,
  };
}

async function survey(file: string): Promise<{ replies: SurveyReply[]; end: Survey }> {
  const replies: SurveyReply[] = [];
  await surveyData(
    reader(file),
    (reply) => replies.push(structuredClone(reply)),
    new AbortController().signal,
  );
  const last = replies.at(-1)!;
  if (last.kind !== "end") throw new Error(`the last reply is ${last.kind}`);
  return { replies, end: last.survey };
}

it("a picture is drawn at its record's own limit, unless that is for other models' pictures", async () => {
  const limits = [{}, { hd_num: 9 }, { max_pixels: 9 }];
  writeLines(
    "limits.jsonl",
    limits.map((own) => ({ ...withPicture("page.png"), ...own })),
  );
  const views = await sampleViews(reader("limits.jsonl"), { from: 0, count: 3 });
  const tokens = views.map(({ pictures }) => pictures[0]?.tokens);
  expect(tokens[1]).toBeGreaterThan(tokens[0]!);
  expect(tokens[2]).toBe(tokens[0]);
  const drawn = await Promise.all(limits.map((_, index) => drawnPicture(reader("limits.jsonl"), index, 0)));
  const [usual, larger, foreign] = await Promise.all(drawn.map((png) => sharp(png).raw().toBuffer()));
  expect(larger!.equals(usual!)).toBe(false);
  expect(foreign!.equals(usual!)).toBe(true);
});

describe("a survey", () => {
  it("sends the first samples before the counts, and counts every length", async () => {
    writeLines(
      "lengths.jsonl",
      Array.from({ length: 200 }, (_, index) => sample(10 + (index % 3))),
    );
    const { replies, end } = await survey("lengths.jsonl");
    expect(replies[0]).toMatchObject({ kind: "samples", samples: { length: 12 } });
    expect(end).toMatchObject({ records: 200, total: 200, usable: 200, badCount: 0, labelTokens: 200 });
    expect(end.lengths).toEqual([
      [10, 67],
      [11, 67],
      [12, 66],
    ]);
    expect(end.tokens).toBe(67 * 10 + 67 * 11 + 66 * 12);
    expect(end.longest[0]).toMatchObject({ tokens: 12, index: 2 });
  });

  it("finds samples that can't be trained on, with the words of `lorafit validate`", async () => {
    writeLines("bad.jsonl", [
      sample(5),
      { ...sample(5), labels: [-100, -100, -100, -100, -100] },
      { nothing: 1 },
      withPicture("missing.png"),
    ]);
    const { end } = await survey("bad.jsonl");
    expect(end).toMatchObject({ records: 4, usable: 1, badCount: 3 });
    expect(end.bad.map(({ index }) => index)).toEqual([1, 2, 3]);
    expect(end.bad[0]?.error).toMatch(/bad\.jsonl:2: sample 1 has no answer to learn/);
    expect(end.bad[2]?.error).toMatch(/missing\.png/);
  });

  it("counts samples of text without a tokenizer as records only, and shows their text", async () => {
    writeLines("text.jsonl", [
      {
        messages: [
          { role: "user", content: "2 < 3 <b>?</b>" },
          { role: "assistant", content: "yes" },
        ],
      },
    ]);
    const { replies, end } = await survey("text.jsonl");
    expect(end).toMatchObject({ records: 1, usable: 0, isCounted: false });
    const first = replies[0]!;
    expect(first.kind === "samples" && first.samples[0]?.spans).toEqual([
      { kind: "prompt", text: "user: " },
      { kind: "prompt", text: "2 < 3 <b>?</b>" },
      { kind: "prompt", text: "\n" },
      { kind: "prompt", text: "assistant: " },
      { kind: "answer", text: "yes" },
      { kind: "prompt", text: "\n" },
    ]);
  });

  it("stops where it is cancelled", async () => {
    const cancel = new AbortController();
    let replies = 0;
    await surveyData(
      reader("lengths.jsonl"),
      () => {
        replies++;
        cancel.abort();
      },
      cancel.signal,
    );
    expect(replies).toBe(2); // the first samples and their counts
  });
});

describe("nothing outside of the folder is read or shown", () => {
  const outsideFiles = ["../outside/data.jsonl", "list.txt", "linked.jsonl", "/etc/passwd", "a\0b"];
  beforeAll(() => {
    writeFileSync(join(outside, "data.jsonl"), `${JSON.stringify(sample(4))}\n`);
    writeFileSync(join(folder, "list.txt"), "../outside/data.jsonl 1\n");
    symlinkSync(join(outside, "data.jsonl"), join(folder, "linked.jsonl"));
  });

  it.each(outsideFiles)("neither %j", async (file) => {
    await expect(survey(file)).rejects.toThrow(UserError);
    await expect(sampleViews(reader(file), { from: 0, count: 1 })).rejects.toThrow(UserError);
  });

  it("nor a picture that a sample names, by its path, by .. or by a link", async () => {
    const names = ["page.png", "link.png", "../outside/secret.png", join(outside, "secret.png"), "/dev/zero"];
    writeLines("pictures.jsonl", names.map(withPicture));
    const views = await sampleViews(reader("pictures.jsonl"), { from: 0, count: names.length });
    expect(views.map(({ pictures }) => pictures[0]?.isShown)).toEqual([true, false, false, false, false]);
    expect(views[0]?.pictures[0]).toMatchObject({ name: "page.png", size: { width: 600, height: 300 } });
    const png = await drawnPicture(reader("pictures.jsonl"), 0, 0);
    expect((await sharp(png).metadata()).format).toBe("png");
    for (const index of [1, 2, 3, 4, 9])
      await expect(drawnPicture(reader("pictures.jsonl"), index, 0)).rejects.toThrow(/no such picture/);
  });

  it("a picture within the data is shown", async () => {
    const png = await sharp({ create: { width: 50, height: 50, channels: 3, background: "red" } })
      .png()
      .toBuffer();
    writeLines("embedded.jsonl", [withPicture(`data:image/png;base64,${png.toString("base64")}`)]);
    const [view] = await sampleViews(reader("embedded.jsonl"), { from: 0, count: 1 });
    expect(view?.pictures[0]).toMatchObject({ isShown: true, size: { width: 50, height: 50 } });
    expect((await drawnPicture(reader("embedded.jsonl"), 0, 0)).length).toBeGreaterThan(1000);
  });

  it("and a path is below the folder only if its real path is", () => {
    expect(realPathBelow(folder, "page.png")).toBe(join(folder, "page.png"));
    expect(realPathBelow(folder, "runs/../page.png")).toBe(join(folder, "page.png"));
    for (const path of ["link.png", "..", "../outside", "missing", "a\0b", `${folder}x`])
      expect(realPathBelow(folder, path)).toBeUndefined();
  });
});

it("data sets, models and the data of runs are found; logs, links and other JSON are not", async () => {
  mkdirSync(join(folder, "model"), { recursive: true });
  writeFileSync(join(folder, "model", "config.json"), "{}");
  writeFileSync(join(folder, "model", "tokenizer.model"), "");
  writeFileSync(join(folder, "array.json"), `\n  ${JSON.stringify([sample(3)])}`);
  writeFileSync(join(folder, "settings.json"), "{}");
  writeFileSync(join(folder, "notes.txt"), "remember the milk\n");
  writeFileSync(join(folder, "own.txt"), "# mine\narray.json 2\n");
  writeFileSync(join(folder, "runs", "1", "steps.jsonl"), '{"step":1}\n');
  writeFileSync(join(folder, "runs", "1", "train.yaml"), "model: model\ndata: array.json\n");
  const { files, models } = await findData(folder);
  const paths = files.map(({ path }) => path);
  expect(paths).toEqual(expect.arrayContaining(["array.json", "own.txt", "lengths.jsonl"]));
  for (const no of ["settings.json", "notes.txt", "linked.jsonl", "runs/1/steps.jsonl", "model/config.json"])
    expect(paths).not.toContain(no);
  expect(files.find(({ path }) => path === "array.json")?.run).toBe("runs/1");
  expect(models).toEqual([join(folder, "model")]);
});

it("a pipe in a data set's place, or in its list, is refused, and not waited for", async () => {
  execFileSync("mkfifo", [join(folder, "pipe.jsonl")]);
  writeFileSync(join(folder, "pipes.txt"), "pipe.jsonl 1\n");
  for (const file of ["pipe.jsonl", "pipes.txt"]) await expect(survey(file)).rejects.toThrow(/is no file/);
});

it("a text of empty lines is no list of data, which is found out at once", { timeout: 30_000 }, async () => {
  writeFileSync(join(folder, "empty lines.txt"), `${"\n".repeat(400)}hello`);
  writeFileSync(join(folder, "after empty lines.txt"), `${"\n # data\n".repeat(40)}data.jsonl 1\n`);
  const paths = (await findData(folder)).files.map(({ path }) => path);
  expect(paths).not.toContain("empty lines.txt");
  expect(paths).toContain("after empty lines.txt");
});
