import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import sharp from "sharp";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { UserError } from "../../errors.ts";
import { imageTokens } from "../pictures/hdTiles/hdGrid.ts";
import { HD_TILES } from "../pictures/hdTiles/hdTiles.ts";
import { trainTokenizer } from "../text/tinyTokenizer.ts";
import { loadTokenizer, type Tokenizer } from "../text/tokenizer.ts";
import { type Dataset, readDataset } from "./samples.ts";
import { type PrepareOptions, prepareSamples } from "./validate.ts";

const folder = mkdtempSync(join(tmpdir(), "lorafit-validate-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

let tokenizer: Tokenizer;
beforeAll(async () => {
  writeFileSync(join(folder, "tokenizer.model"), trainTokenizer(["user assistant"], { vocabSize: 300 }));
  tokenizer = await loadTokenizer(folder);
  await sharp({ create: { width: 400, height: 1000, channels: 3, background: "white" } })
    .png()
    .toFile(join(folder, "page.png"));
  await sharp({ create: { width: 1000, height: 1, channels: 3, background: "white" } })
    .png()
    .toFile(join(folder, "line.png"));
  writeFileSync(join(folder, "broken.png"), "not a picture");
  writeFileSync(join(folder, "empty.png"), "");
});

/** A record of the official form. */
function record(question: string, answer: string, image?: string | string[]) {
  const conversations = [
    { from: "user", value: question },
    { from: "assistant", value: answer },
  ];
  return { conversations, ...(image ? { image } : {}) };
}

function dataset(name: string, records: unknown[]): Dataset {
  const file = join(folder, name);
  writeFileSync(
    file,
    name.endsWith("l") ? records.map((one) => JSON.stringify(one)).join("\n") : JSON.stringify(records),
  );
  return readDataset(file);
}

function prepare(data: Dataset, options: Partial<PrepareOptions> = {}) {
  const defaults = {
    tokenizer,
    vocabSize: 300,
    pictures: HD_TILES,
    pictureLimit: 9,
    maxLength: 4096,
    imageCompat: "lorafit",
    purpose: "train",
    skipBad: false,
  } as const;
  return prepareSamples(data, { ...defaults, ...options });
}

/** The UserError of a dataset that must not pass. */
async function errorOf(data: Dataset, options: Partial<PrepareOptions> = {}): Promise<UserError> {
  const error = await prepare(data, options).catch((thrown) => thrown);
  expect(error).toBeInstanceOf(UserError);
  return error;
}

describe("good samples", () => {
  it("are counted to the token before any picture is decoded", async () => {
    const { samples, skipped } = await prepare(
      dataset("good.json", [record("<ImageHere>What?", "A page.", "page.png"), record("hi", "ho")]),
    );
    expect(skipped).toEqual([]);
    expect(samples[0]?.grids).toMatchObject([{ rows: 4, cols: 2 }]);
    expect(samples[0]?.tokens).toBe((samples[0]?.inputIds.length ?? 0) - 1 + imageTokens(4, 2));
    expect(samples[1]?.tokens).toBe(samples[1]?.inputIds.length);
  });

  it("keep their order, and progress ends at their count", async () => {
    const records = Array.from({ length: 200 }, (_, index) =>
      record(`${index}`, "a", index % 2 ? "page.png" : undefined),
    );
    const progress: number[] = [];
    const { samples } = await prepare(dataset("order.json", records), {
      onProgress: (done) => progress.push(done),
    });
    expect(samples.map(({ source }) => source.index)).toEqual(records.map((_, index) => index));
    expect(progress).toEqual(records.map((_, index) => index + 1));
  });
});

describe("a bad sample is named with what mends it:", () => {
  it.each([
    [
      "a missing picture",
      record("<ImageHere>?", "a", "lost.png"),
      /shows a picture that can't be used\. .*lost\.png/,
    ],
    [
      "a broken picture",
      record("<ImageHere>?", "a", "broken.png"),
      /shows a picture that can't be used\. .*broken\.png/,
    ],
    ["a folder for a picture", record("<ImageHere>?", "a", "."), /is a folder, not a picture/],
    [
      "an empty picture file",
      record("<ImageHere>?", "a", "empty.png"),
      /empty\.png is an empty file, not a picture/,
    ],
    [
      "a picture too long and thin",
      record("<ImageHere>?", "a", "line.png"),
      /shows a picture that can't be used\. .*line\.png: 1000 x 1/,
    ],
    [
      "more places than pictures",
      record("<ImageHere><ImageHere>?", "a", "page.png"),
      /has 1 picture but 2 places for them/,
    ],
    [
      "a place without a picture",
      record("<ImageHere>?", "a"),
      /has <ImageHere> in its text and names no picture/,
    ],
    ["ids without labels", { input_ids: [1, 2] }, /has input_ids without labels/],
    [
      "two pictures without places",
      record("?", "a", ["page.png", "page.png"]),
      /has 2 pictures but 0 places/,
    ],
    ["an empty answer", record("?", " \n"), /has an empty answer \(turn 2 of 2\)/],
    ["no answer", { conversations: [{ from: "user", value: "?" }] }, /has no answer to learn/],
    [
      "an id outside the vocabulary",
      { input_ids: [1, 300], labels: [1, 1] },
      /has token id 300, which is outside the model's vocabulary of 300/,
    ],
    ["a position mark for an id", { input_ids: [1, -100], labels: [1, 1] }, /has token id -100/],
    ["a label outside the vocabulary", { input_ids: [1, 2], labels: [1, 300] }, /has label 300/],
    ["a label on the first id alone", { input_ids: [1, 2], labels: [1, -100] }, /has no answer to learn/],
  ])("%s", async (_, bad, message) => {
    const error = await errorOf(dataset("bad.json", [record("?", "a"), bad]), { pictureLimit: 1 });
    expect(error.message).toMatch(/^1 of 2 samples can't be used:\n {2}.*bad\.json: sample 1 /);
    expect(error.message).toMatch(message);
    expect(error.fix).toMatch(/--skip-bad {2}\(leaves out 1 of 2 samples\)$/);
  });
});

describe("a picture file that breaks off", () => {
  const make = (format: "png" | "jpeg" | "gif" | "webp") =>
    sharp({ create: { width: 64, height: 48, channels: 3, background: "#888" } })
      .toFormat(format)
      .toBuffer();
  const put = (name: string, bytes: Uint8Array): Dataset => {
    writeFileSync(join(folder, name), bytes);
    return dataset(`${name}.json`, [record("?", "a"), record("<ImageHere>?", "a", name)]);
  };

  it.each(["png", "jpeg", "gif", "webp"] as const)(
    "is found before the run, though its header is sound (%s)",
    async (format) => {
      const whole = await make(format);
      expect((await prepare(put(`whole.${format}`, whole))).samples).toHaveLength(2);
      const { message } = await errorOf(put(`half.${format}`, whole.subarray(0, whole.length - 16)));
      expect(message).toMatch(
        /sample 1 shows a picture that can't be used\. .*half\.\w+: this picture can't be read/,
      );
    },
  );

  it.each(["tiff", "avif"] as const)(
    "is found by decoding if its format does not tell its end (%s), unless that was not asked for",
    async (format) => {
      const noise = Uint8Array.from({ length: 64 * 48 * 3 }, (_, index) => (index * 7919) % 251);
      const whole = await sharp(noise, { raw: { width: 64, height: 48, channels: 3 } })
        .toFormat(format)
        .toBuffer();
      expect((await prepare(put(`whole.${format}`, whole), { thorough: true })).samples).toHaveLength(2);
      const cut = put(`half.${format}`, whole.subarray(0, -400));
      expect((await prepare(cut)).samples).toHaveLength(2);
      const { message } = await errorOf(cut, { thorough: true });
      expect(message).toMatch(
        /sample 1 shows a picture that can't be used\. .*half\.\w+: this picture can't be read/,
      );
    },
  );

  it("is none where a whole picture is followed by something else, as a phone's photo by its film", async () => {
    const photo = Buffer.concat([await make("jpeg"), Buffer.alloc(100_000, 7)]);
    expect((await prepare(put("film.jpeg", photo))).samples).toHaveLength(2);
  });
});

describe("ways on", () => {
  it("do not offer to leave out every sample", async () => {
    const { fix } = await errorOf(dataset("allBad.json", [record("<ImageHere>?", "a", "gone.png")]));
    expect(fix).toBe("Correct them.");
  });

  it("offer something else where leaving out is none", async () => {
    const bad = dataset("oneBad.json", [record("<ImageHere>?", "a", "gone.png"), record("?", "a")]);
    const { fix } = await errorOf(bad, { insteadOfSkipping: "begin anew" });
    expect(fix).toBe("Correct them, or pass one of:\n  begin anew");
  });
});

describe("a sample above max_length", () => {
  const long = () => dataset("long.json", [record("<ImageHere>What?", "A page.", "page.png")]);

  it("is told its tokens, those of the picture, its size, and the settings that fit it", async () => {
    const { samples } = await prepare(long());
    const tokens = samples[0]?.tokens ?? 0;
    const { message } = await errorOf(long(), { maxLength: tokens - 1 });
    expect(message).toContain(
      `long.json: sample 0 has ${tokens.toLocaleString("en-US")} tokens, but max_length is `,
    );
    expect(message).toContain(
      `(${imageTokens(4, 2).toLocaleString("en-US")} of them are its picture at hd_num 9)`,
    );
    expect(message).toContain("page.png is 400 x 1,000");
    expect(message).toContain(`--max-length ${tokens}`);
    const hdNum = Number(/--hd-num (\d+)/.exec(message)?.[1]);
    expect((await prepare(long(), { maxLength: tokens })).samples.length).toBe(1);
    expect((await prepare(long(), { maxLength: tokens - 1, pictureLimit: hdNum })).samples.length).toBe(1);
    await errorOf(long(), { maxLength: tokens - 1, pictureLimit: hdNum + 1 });
  });

  it("is told the largest hd_num that fits, to the token", async () => {
    const { samples } = await prepare(long(), { pictureLimit: 7 });
    const tokens = samples[0]?.tokens ?? 0;
    expect((await errorOf(long(), { maxLength: tokens })).message).toContain("--hd-num 7 ");
    expect((await errorOf(long(), { maxLength: tokens - 1 })).message).not.toContain("--hd-num 7 ");
  });

  it("isn't told of an hd_num where the text alone is too long", async () => {
    expect((await errorOf(long(), { maxLength: 10 })).message).not.toContain("--hd-num");
  });

  it("with its own hd_num is told to change that", async () => {
    const ids = { input_ids: [1, -200, 5], labels: [-100, -100, 5], images: ["page.png"], hd_num: 9 };
    const { message } = await errorOf(dataset("ids.jsonl", [ids]), { maxLength: 1000 });
    expect(message).toContain("ids.jsonl:1: sample 0 has 1,3");
    expect(message).toMatch(/"hd_num": \d in the record {2}\(\d+ tokens for its picture\)/);
  });

  it("among others: the settings that fit them all are named too", async () => {
    const records = [
      record("<ImageHere>What?", "A page.", "page.png"),
      record("<ImageHere>?", "a".repeat(50), "page.png"),
    ];
    const { samples } = await prepare(dataset("two.json", records));
    const most = Math.max(...samples.map(({ tokens }) => tokens));
    const error = await errorOf(dataset("two.json", records), { maxLength: 1000 });
    expect(error.fix).toContain(`--max-length ${most}  (fits the 2 that are too long)`);
    expect(error.fix).toMatch(/--hd-num \d {2}\(fits the 2 that are too long\)/);
  });
});

describe("a record of millions of characters", () => {
  it.each([
    ["one word", "a".repeat(3e6)],
    ["signs that have no piece", "漢字".repeat(1.5e6)],
    ["halves of characters", "\ud800".repeat(3e6)],
    ["lines", "\n".repeat(3e6).concat("x")],
    ["names of control tokens", "[UNUSED_TOKEN_145]".repeat(2e5)],
  ])("is refused without encoding all of it (%s)", async (_, text) => {
    let encoded = 0;
    const counting = {
      encode: (part: string, options?: Parameters<Tokenizer["encode"]>[1]) => {
        encoded += part.length;
        return tokenizer.encode(part, options);
      },
    } as Tokenizer;
    const { message } = await errorOf(dataset("long.jsonl", [record(`?${text}`, "a")]), {
      tokenizer: counting,
    });
    expect(message).toMatch(
      /has more than 4,096 tokens \(2 turns of [\d,]+ characters in all\), but max_length is 4,096/,
    );
    expect(encoded).toBeLessThan(100_000);
  });

  it("is a usual sample where max_length holds it", async () => {
    const { samples } = await prepare(dataset("fits.jsonl", [record("?".repeat(40_000), "a")]), {
      maxLength: 50_000,
    });
    expect(samples[0]?.tokens).toBeGreaterThan(4_096);
  });
});

describe("bad samples", () => {
  const mixed = () =>
    dataset("mixed.json", [record("?", "a"), record("?", ""), { text: 1 }, record("?", "b")]);

  it("are skipped and counted on demand, records that are none included", async () => {
    const { samples, skipped } = await prepare(mixed(), { skipBad: true });
    expect(samples.map(({ source }) => source.index)).toEqual([0, 3]);
    expect(skipped.map(({ source }) => source.index).sort()).toEqual([1, 2]);
  });

  it("are an error even then where nothing else is left", async () => {
    await expect(prepare(dataset("allBad.json", [record("?", "")]), { skipBad: true })).rejects.toThrow(
      "1 of 1 samples can't be used",
    );
  });

  it("are shown ten at most, and counted", async () => {
    const error = await errorOf(
      dataset(
        "many.json",
        Array.from({ length: 1234 }, () => record("?", "")),
      ),
    );
    expect(error.message).toMatch(/^1,234 of 1,234 samples can't be used:\n/);
    expect(error.message.match(/empty answer/g)?.length).toBe(10);
    expect(error.message).toMatch(/and 1,224 more$/);
  });
});

describe("what no sample is to blame for", () => {
  it("a missing tokenizer is one error, and none for samples of ids", async () => {
    await expect(prepare(dataset("text.json", [record("?", "a")]), { tokenizer: undefined })).rejects.toThrow(
      /^These samples are text/,
    );
    const ids = dataset("noTokenizer.jsonl", [{ input_ids: [1, 5], labels: [-100, 5] }]);
    expect((await prepare(ids, { tokenizer: undefined })).samples.length).toBe(1);
  });

  it("a limit for the pictures of another model is refused, not taken for this one's", async () => {
    const one = { input_ids: [1, -200, 5], labels: [-100, -100, 5], images: ["page.png"], max_pixels: 9 };
    const error = await errorOf(dataset("foreign.jsonl", [one]));
    expect(error.message).toContain('limits its pictures by "max_pixels", which this model does not know');
    expect(error.message).toContain('Write "hd_num" instead');
    const both = await errorOf(dataset("both.jsonl", [{ ...one, hd_num: 4 }]));
    expect(both.message).toContain('limits its pictures by "max_pixels", which this model does not know');
    expect(both.message).toContain('Remove "max_pixels"; "hd_num" limits this model');
  });

  it("an impossible hd_num is one error", async () => {
    await expect(prepare(dataset("hd.json", [record("?", "a")]), { pictureLimit: -1 })).rejects.toThrow(
      /^--hd-num must be 1 or more/,
    );
  });
});

it("an answer that is not to be learned has no labels, though it is read", async () => {
  const turns = (loss: boolean) => [
    { role: "user", content: "2+2?" },
    { role: "assistant", content: "5", loss },
    { role: "user", content: "Sure?" },
    { role: "assistant", content: "4" },
  ];
  const { samples } = await prepare(
    dataset("loss.json", [{ messages: turns(false) }, { messages: turns(true) }]),
  );
  const [some, all] = samples.map(({ labels }) => [...labels]);
  const firstAnswer = tokenizer.encode("5", { specials: false }).length + 1; // and what ends the turn
  expect(samples[0]?.inputIds).toEqual(samples[1]?.inputIds);
  const start = all!.findIndex((label) => label !== -100);
  expect(some).toEqual(all!.map((label, row) => (row >= start && row < start + firstAnswer ? -100 : label)));
  expect(some!.filter((label) => label !== -100).length).toBeGreaterThan(0);
  const none = dataset("noLoss.json", [{ messages: turns(false).slice(0, 2) }]);
  expect((await errorOf(none)).message).toMatch(/has no answer to learn/);
});

it("ids without labels are a prompt as a whole", async () => {
  const { samples } = await prepare(dataset("idPrompt.json", [{ input_ids: [1, 5, 6] }]), {
    purpose: "generate",
  });
  expect(samples[0]?.inputIds).toEqual(Int32Array.of(1, 5, 6));
});

it("pictures within the data are measured, and named without their bytes", async () => {
  const bytes = await sharp({ create: { width: 400, height: 1000, channels: 3, background: "red" } })
    .png()
    .toBuffer();
  const uri = `data:image/png;base64,${bytes.toString("base64")}`;
  const { samples } = await prepare(dataset("embedded.json", [record("<ImageHere>?", "a", uri)]));
  expect(samples[0]?.grids).toMatchObject([{ rows: 4, cols: 2 }]);
  for (const broken of [`${uri.slice(0, 200)}`, "data:image/png;base64,%%", "data:image/png,abc"]) {
    const { message } = await errorOf(dataset("cut.json", [record("<ImageHere>?", "a", broken)]));
    expect(message).toContain("a picture within the data (image/png, ");
    expect(message).not.toContain(broken.slice(0, 30));
  }
});

it("for generating, samples need no answer and end where the assistant speaks", async () => {
  const question = { conversations: [{ from: "user", value: "?" }] };
  const { samples } = await prepare(dataset("prompts.json", [question, record("?", "a")]), {
    purpose: "generate",
  });
  expect(samples[0]?.inputIds).toEqual(samples[1]?.inputIds);
  expect(samples[0]?.tokens).toBe(samples[0]?.inputIds.length);
});
