import { constants } from "node:buffer";
import { closeSync, mkdirSync, mkdtempSync, openSync, rmSync, writeFileSync, writeSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { UserError } from "../../errors.ts";
import type { Sample } from "./sample.ts";
import { readDataset, readSamples } from "./samples.ts";

const folder = mkdtempSync(join(tmpdir(), "lorafit-samples-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** Writes a file of the test's folder; its path. */
function write(name: string, content: unknown): string {
  const file = join(folder, name);
  writeFileSync(file, typeof content === "string" ? content : JSON.stringify(content));
  return file;
}

function textsOf(sample: Sample | undefined): string[] {
  return sample?.kind === "dialogue" ? sample.turns.map(({ role, text }) => `${role}: ${text}`) : [];
}

const QUESTION = { from: "user", value: "<ImageHere>What is it?" };
const ANSWER = { from: "assistant", value: "A cat." };

describe("the official form", () => {
  it("takes one picture or a list, beside the file, and any case of the speakers' names", () => {
    const file = write("official.json", [
      { id: "0", image: "cat.png", conversations: [QUESTION, ANSWER] },
      {
        id: "1",
        image: ["a.png", "b.png"],
        conversations: [{ from: "Human", value: " <ImageHere> <ImageHere>Which? \n" }, ANSWER],
      },
      {
        id: "2",
        conversations: [
          { from: "system", value: "Be kind." },
          { from: "human", value: "hi" },
          { from: "GPT", value: "hello" },
        ],
      },
    ]);
    const samples = readSamples(file);
    expect(samples.map(({ images }) => images)).toEqual([
      [join(folder, "cat.png")],
      [join(folder, "a.png"), join(folder, "b.png")],
      [],
    ]);
    expect(samples.map(textsOf)).toEqual([
      ["user: <ImageHere>What is it?", "assistant: A cat."],
      ["user:  <ImageHere> <ImageHere>Which? \n", "assistant: A cat."],
      ["system: Be kind.", "user: hi", "assistant: hello"],
    ]);
    expect(samples[2]?.source).toEqual({ file, index: 2, id: "2" });
  });

  it("puts a single picture without a place before the first question", () => {
    const conversations = [{ from: "system", value: "s" }, { from: "user", value: "What is it?" }, ANSWER];
    const [sample] = readSamples(write("noPlace.json", [{ image: ["cat.png"], conversations }]));
    expect(textsOf(sample)).toEqual(["system: s", "user: <ImageHere>What is it?", "assistant: A cat."]);
  });

  it("leaves two pictures without places as they are, for validation to refuse", () => {
    const conversations = [{ from: "user", value: "What are they?" }, ANSWER];
    const [sample] = readSamples(write("noPlaces.json", [{ image: ["a.png", "b.png"], conversations }]));
    expect(textsOf(sample)[0]).toBe("user: What are they?");
  });

  it("looks for a picture in the working folder where there is none beside the file", () => {
    const [sample] = readSamples(
      write("cwd.json", [{ image: "package.json", conversations: [QUESTION, ANSWER] }]),
    );
    expect(sample?.images).toEqual([join(process.cwd(), "package.json")]);
  });
});

describe("the forms of other trainers", () => {
  it.each([
    [
      "messages",
      {
        messages: [
          { role: "user", content: "<image>What?" },
          { role: "assistant", content: "A cat." },
        ],
        images: ["a.png"],
      },
    ],
    ["query and response", { query: "<image>What?", response: "A cat.", images: ["a.png"] }],
    [
      "instruction and output",
      { instruction: "<image>What?", input: "", output: "A cat.", images: ["a.png"] },
    ],
    [
      "conversations with <image>",
      {
        image: "a.png",
        conversations: [
          { from: "human", value: "<image>What?" },
          { from: "gpt", value: "A cat." },
        ],
      },
    ],
  ])("%s is read as the official form", (name, record) => {
    const [sample] = readSamples(write(`${name.replaceAll(/\W/g, "")}.jsonl`, JSON.stringify(record)));
    expect(textsOf(sample)).toEqual(["user: <ImageHere>What?", "assistant: A cat."]);
    expect(sample?.images).toEqual([join(folder, "a.png")]);
  });

  it("history and system come before the question", () => {
    const record = { system: "s", history: [["q1", "a1"]], query: "q2", response: "a2" };
    const [sample] = readSamples(write("history.jsonl", JSON.stringify(record)));
    expect(textsOf(sample)).toEqual(["system: s", "user: q1", "assistant: a1", "user: q2", "assistant: a2"]);
  });
});

describe("samples of ids", () => {
  it("take one hd_num for all pictures, one for each, or none", () => {
    const record = {
      input_ids: [1, -200, -200, 5],
      labels: [-100, -100, -100, 5],
      images: ["a.png", "b.png"],
    };
    const records = [
      { ...record, hd_num: 4 },
      { ...record, hd_num: [4, 9] },
      record,
      { ...record, hd_num: null, max_pixels: 900 },
      { ...record, hd_num: 4, max_pixels: 900 },
    ];
    const lines = records.map((one) => JSON.stringify(one));
    const samples = readSamples(write("ids.jsonl", lines.join("\n")));
    expect(samples.map((sample) => (sample.kind === "tokens" ? sample.limits : "dialogue"))).toEqual([
      { option: "hd_num", values: [4, 4] },
      { option: "hd_num", values: [4, 9] },
      undefined,
      { option: "max_pixels", values: [900, 900] },
      { option: "hd_num", values: [4, 4], others: ["max_pixels"] },
    ]);
    expect(samples[1]).toMatchObject({
      inputIds: Int32Array.of(1, -200, -200, 5),
      source: { index: 1, line: 2 },
    });
  });

  it.each([
    [{ input_ids: [1, 2], labels: [2] }, "has 2 input_ids but 1 label"],
    [{ input_ids: [], labels: [] }, "has no token ids"],
    [
      { input_ids: [1], labels: [1], images: ["a.png"], hd_num: [1, 2] },
      "has 2 values of hd_num for 1 picture",
    ],
    [{ input_ids: [1.5], labels: [1] }, "has wrong fields: input_ids[0]: "],
    [{ input_ids: [1], labels: [1], hd_num: -1 }, "has wrong fields: hd_num: "],
  ])("%j is refused with line and index", (record, clause) => {
    const file = write(
      "badIds.jsonl",
      `${JSON.stringify({ query: "q", response: "a" })}\n\n${JSON.stringify(record)}\n`,
    );
    expect(() => readSamples(file)).toThrow(`${file}:3: sample 1 ${clause}`);
  });
});

describe("files of lines", () => {
  const record = JSON.stringify({ query: "q", response: "a" });

  it("may have their ending in capitals", () => {
    expect(readSamples(write("CAPITALS.JSONL", `${record}\n${record}`)).length).toBe(2);
    write("LIST.TXT", "CAPITALS.JSONL 1");
    expect(readSamples(join(folder, "LIST.TXT")).length).toBe(2);
  });

  it("are read line by line beyond the longest string of Node", () => {
    const file = join(folder, "large.jsonl");
    const blank = Buffer.alloc(2 ** 20, " ");
    blank[blank.length - 1] = 0x0a;
    const handle = openSync(file, "w");
    writeSync(handle, `${record}\n`);
    for (let bytes = 0; bytes <= constants.MAX_STRING_LENGTH; bytes += blank.length) writeSync(handle, blank);
    writeSync(handle, record);
    closeSync(handle);
    try {
      const samples = readSamples(file);
      expect(samples.map(({ source }) => [source.index, (source.line ?? 0) > 512])).toEqual([
        [0, false],
        [1, true],
      ]);
    } finally {
      rmSync(file);
    }
  }, 60_000);

  it("keep lines apart that end at the border of two reads", () => {
    const lines = Array.from({ length: 7 }, (_, index) =>
      JSON.stringify({ query: `${index}ü`.repeat(150_000), response: "a" }),
    );
    const samples = readSamples(write("borders.jsonl", `${lines.join("\r\n")}\n\n`));
    expect(samples.map((sample) => textsOf(sample)[0]?.slice(6, 8))).toEqual(
      lines.map((_, index) => `${index}ü`),
    );
    expect(samples.map((sample) => textsOf(sample)[0]?.length)).toEqual(lines.map(() => 6 + 300_000));
  });

  it("name once a file the fields that are not read", () => {
    const lines = [
      { query: "q", response: "a", source: "web" },
      { query: "q", response: "a", source: "book", page: 3 },
    ];
    const file = write("unused.jsonl", lines.map((line) => JSON.stringify(line)).join("\n"));
    expect(readDataset(file).warnings).toEqual([`${file}: these fields are not read: source, page`]);
  });
});

describe("lists", () => {
  mkdirSync(join(folder, "parts"), { recursive: true });
  write("parts/one.json", [{ conversations: [{ from: "user", value: "1" }, ANSWER] }]);
  write("parts/two words.json", [{ conversations: [{ from: "user", value: "2" }, ANSWER] }]);

  it("name files relative to themselves, with counts in thousands", () => {
    const { files, samples } = readDataset(
      write("data.txt", "# ours\nparts/one.json 0.01\n\nparts/two words.json 10\r\nparts/one.json\n"),
    );
    expect(files).toEqual([
      { file: join(folder, "parts/one.json"), thousands: 0.01 },
      { file: join(folder, "parts/two words.json"), thousands: 10 },
      { file: join(folder, "parts/one.json") },
    ]);
    expect(samples.map((sample) => textsOf(sample)[0])).toEqual(["user: 1", "user: 2", "user: 1"]);
  });

  it.each(["0", "-3", "1e999"])("with a count of %s are refused by line", (count) => {
    const file = write("badCount.txt", `parts/one.json 1\nparts/one.json ${count}\n`);
    expect(() => readDataset(file)).toThrow(`${file}:2: the count must be above 0 (got ${count})`);
  });

  it("lend their folder to the pictures of the files that they name, as the official example needs", () => {
    mkdirSync(join(folder, "official/data/images"), { recursive: true });
    write("official/data/images/shop.jpeg", "");
    const picture = {
      image: "data/images/shop.jpeg",
      conversations: [QUESTION, { from: "bot", value: "A shop." }],
    };
    write("official/data/one.json", [picture]);
    const [sample] = readSamples(write("official/data.txt", "data/one.json 0.01"));
    expect(sample?.images).toEqual([join(folder, "official/data/images/shop.jpeg")]);
  });

  it("that name a missing file say which, and several paths make one dataset", () => {
    expect(() => readDataset(write("lost.txt", "parts/lost.json 1"))).toThrow(
      /lost\.txt:1: there is no file parts\/lost\.json\.$/,
    );
    const all = readDataset([join(folder, "parts/one.json"), join(folder, "parts/two words.json")]);
    expect(all.samples.length).toBe(2);
  });
});

describe("what can't be read", () => {
  it.each([
    ["[\n  {},\n  oops\n]", /notJson\.json:3:3: this isn't JSON: /],
    ['{"conversations": []}', /a dataset is an array of records, but this holds one object/],
    ["[]", /There are no samples in /],
    ["\xff\xfe", /notJson\.json/],
  ])("%j is refused as a file", (content, message) => {
    const file = join(folder, "notJson.json");
    writeFileSync(file, Buffer.from(content, "latin1"));
    expect(() => readDataset(file)).toThrow(UserError);
    expect(() => readDataset(file)).toThrow(message);
  });

  it("records that aren't samples are listed, and the others kept", () => {
    const file = write("mixed.json", [
      { conversations: [QUESTION, ANSWER], image: "a.png" },
      { text: "?" },
      7,
      { conversations: [{ from: "user", value: 3 }] },
      { conversations: [{ from: "tool", value: "x" }] },
      { conversations: [QUESTION, ANSWER], image: "a.png", videos: ["b.mp4"] },
    ]);
    const { samples, bad } = readDataset(file);
    expect(samples.map(({ source }) => source.index)).toEqual([0]);
    expect(bad.map(({ message }) => message.slice(file.length))).toEqual([
      ": sample 1 has none of the fields that make a sample (input_ids, conversations, messages, query, instruction, prompt).",
      ": sample 2 isn't a record.",
      expect.stringContaining(": sample 3 has wrong fields: conversations[0].value: "),
      ': sample 4 uses tools (conversations[0].from "tool"), which cannot be trained on here.',
      ": sample 5 has wrong fields: videos: only pictures can be trained on.",
    ]);
  });

  it("readSamples throws them all at once, the first ten in full", () => {
    const file = write(
      "many.jsonl",
      `${'{"query": "q", "response": "a"}\n'.repeat(2)}${"{oops\n".repeat(13)}`,
    );
    expect(() => readSamples(file)).toThrow(/^13 of 15 samples can't be used:\n/);
    expect(() => readSamples(file)).toThrow(/many\.jsonl:3: sample 2 isn't JSON: /);
    expect(() => readSamples(file)).toThrow(/ {2}and 3 more$/);
  });

  it("that has the ending of the other form is told its own", () => {
    const record = JSON.stringify({ conversations: [{ from: "user", value: "?" }, ANSWER] });
    const fixOf = (name: string, text: string): string | undefined => {
      try {
        readDataset(write(name, text));
      } catch (error) {
        return (error as UserError).fix;
      }
      return undefined;
    };
    expect(fixOf("lines.json", `${record}\n${record}\n`)).toBe("It has one record a line: name it .jsonl.");
    expect(fixOf("array.jsonl", `[\n${record}\n]`)).toBe("Name it .json.");
    expect(fixOf("torn.json", `[${record},`)).toBe("Correct it there.");
  });

  it("an empty file and a folder are named as such", () => {
    for (const name of ["empty.json", "empty.jsonl", "empty.txt"]) {
      const file = write(name, "");
      expect(() => readDataset(file)).toThrow(`${file} is empty.`);
    }
    const inside = write("parts/one.jsonl", "");
    expect(() => readDataset(join(folder, "parts"))).toThrow(/parts can't be read: it is a folder\.$/);
    try {
      readDataset(join(folder, "parts"));
    } catch (error) {
      expect((error as UserError).fix).toContain(inside);
    }
  });

  it("is found on its line in a file of lines", () => {
    const file = join(folder, "latin.jsonl");
    writeFileSync(file, Buffer.from(`${JSON.stringify({ query: "q", response: "a" })}\n"\xe4"\n`, "latin1"));
    expect(() => readDataset(file)).toThrow(`${file}:2: this line isn't UTF-8 text.`);
  });

  it("a byte order mark is no part of the text", () => {
    expect(readSamples(write("bom.jsonl", '\ufeff{"query": "q", "response": "a"}')).length).toBe(1);
  });
});
