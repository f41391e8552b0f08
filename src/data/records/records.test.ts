import { describe, expect, it } from "vitest";
import { type BadSample, badRecord } from "../samples/badSamples.ts";
import type { Sample } from "../samples/sample.ts";
import { RecordFault } from "./recordFault.ts";
import { parseRecord } from "./records.ts";

const SOURCE = { file: "data.jsonl", index: 3, line: 4 };

function read(record: unknown) {
  return parseRecord(record, SOURCE);
}

function sampleOf(record: unknown): Extract<Sample, { kind: "dialogue" }> {
  const { sample } = read(record);
  if (sample.kind !== "dialogue") throw new Error("no dialogue");
  return sample;
}

function errorOf(record: unknown): BadSample {
  try {
    read(record);
  } catch (fault) {
    if (fault instanceof RecordFault) return badRecord(SOURCE, fault);
    throw fault;
  }
  throw new Error("The record was read.");
}

/** "user: What?", and in brackets what is not learned of the assistant's. */
function linesOf(record: unknown): string[] {
  return sampleOf(record).turns.map(({ role, text, learned }) =>
    learned === false ? `[${role}: ${text}]` : `${role}: ${text}`,
  );
}

const DIALOGUE = [
  { from: "human", value: "<image>Colour?" },
  { from: "gpt", value: "Red." },
];
const TEXT = [
  { from: "human", value: "Hi" },
  { from: "gpt", value: "Hello." },
];

describe("speakers", () => {
  it.each(["assistant", "gpt", "bot", "model", "chatbot", "Bot", "GPT"])("%s is the assistant", (from) => {
    const conversations = [
      { from: "Human", value: "Hi" },
      { from, value: "Hello." },
    ];
    expect(linesOf({ conversations })).toEqual(["user: Hi", "assistant: Hello."]);
  });

  it("stand under from or role, texts under value or content, in either list", () => {
    const expected = ["system: s", "user: Hi", "assistant: Hello."];
    const messages = [{ role: "system", content: "s" }, ...TEXT];
    expect(linesOf({ messages })).toEqual(expected);
    expect(linesOf({ conversations: messages })).toEqual(expected);
  });

  it.each(["tool", "function_call", "function-call", "observation", "tool_response", "function"])(
    "%s is refused by name, with what to do",
    (role) => {
      const { message, fix } = errorOf({ messages: [{ role, content: "{}" }] });
      expect(message).toContain(`sample 3 uses tools (messages[0].role "${role}")`);
      expect(fix).toContain("Remove the sample");
    },
  );

  it("that nobody knows are named beside those known", () => {
    const { message, fix } = errorOf({ conversations: [{ from: "narrator", value: "?" }] });
    expect(message).toContain('conversations[0].from: "narrator" is no known speaker');
    for (const name of ["user", "human", "assistant", "gpt", "bot", "model", "chatbot", "system"])
      expect(fix).toContain(name);
  });
});

describe("a picture that would vanish is an error that names its field or mark:", () => {
  it.each([
    ["image_path", { conversations: DIALOGUE, image_path: "a.png" }],
    ["img", { conversations: TEXT, img: "a.png" }],
    ["image_paths", { messages: DIALOGUE, image_paths: ["a.png"] }],
    ["imageFile", { messages: TEXT, imageFile: "a.png" }],
    ["pictures", { messages: TEXT, pictures: ["a.png"] }],
    ["messages[0].images", { messages: [{ ...TEXT[0], images: ["a.png"] }, TEXT[1]] }],
    ["<image>", { messages: DIALOGUE, images: [] }],
    ["<image>", { query: "<image>What?", response: "A cat." }],
    ["<ImageHere>", { query: "<ImageHere>What?", response: "A cat." }],
    ["<img>", { query: "<img>a.png</img>Colour?", response: "Red." }],
    ["<img>", { query: "<img>a.png</img>Colour?", response: "Red.", images: ["a.png"] }],
  ])("%s in %j", (name, record) => {
    expect(errorOf(record).message).toContain(name);
  });

  it("but not beside pictures that are read, nor if the field holds none", () => {
    expect(sampleOf({ conversations: DIALOGUE, image: "a.png", image_size: "4x4" }).images).toEqual([
      "a.png",
    ]);
    expect(read({ conversations: TEXT, image_path: "", image_id: 7 }).unused).toEqual(new Set(["image_id"]));
    expect(linesOf({ query: "<ImageHere>?", response: "<img src='a.png'> <img>", image: "a.png" })[1]).toBe(
      "assistant: <img src='a.png'> <img>",
    );
  });
});

describe("fields that nobody reads", () => {
  it("are named, those of turns too", () => {
    const record = {
      id: "1",
      source: "web",
      note: null,
      conversations: [
        { from: "human", value: "Hi", name: "Ann", train: true },
        { from: "gpt", value: "Hello.", train: true },
      ],
    };
    expect([...read(record).unused].sort()).toEqual([
      "conversations[].name",
      "conversations[].train of a user's turn",
      "source",
    ]);
  });
});

describe("what is not to be learned", () => {
  it.each(["loss", "loss_weight", "loss_scale", "loss_mask", "weight", "train", "trainable"])(
    "%s false or 0 on an answer leaves it as context",
    (flag) => {
      for (const off of [false, 0]) {
        const messages = [
          { role: "user", content: "2+2?" },
          { role: "assistant", content: "5", [flag]: off },
          { role: "user", content: "Sure?" },
          { role: "assistant", content: "4", [flag]: true },
        ];
        expect(linesOf({ messages })).toEqual([
          "user: 2+2?",
          "[assistant: 5]",
          "user: Sure?",
          "assistant: 4",
        ]);
      }
    },
  );

  it("a part of a weight is refused, for a turn is learned whole or not at all", () => {
    const messages = [TEXT[0], { role: "assistant", content: "5", weight: 0.5 }];
    expect(errorOf({ messages }).message).toContain("messages[1].weight: 0.5");
  });

  it.each([
    ["rejected_response", { messages: TEXT, rejected_response: "Go away." }],
    ["rejected_images", { messages: TEXT, rejected_images: ["a.png"] }],
    ["chosen", { prompt: "Hi", chosen: "Hello.", rejected: "Go away." }],
    ["chosen", { conversations: [TEXT[0]], chosen: TEXT[1], rejected: TEXT[1] }],
    ["label", { messages: TEXT, label: false }],
    ["label", { messages: TEXT, label: true }],
    ["kto_tag", { instruction: "Hi", output: "Hello.", kto_tag: true }],
    ["loss_mask", { messages: TEXT, loss_mask: [0, 0] }],
    ["train", { messages: TEXT, train: false }],
    ["tools", { messages: TEXT, tools: "[{}]" }],
    [
      "objects",
      { query: "Where is <ref-object>?", response: "<bbox>", objects: { ref: ["it"], bbox: [[1, 2, 3, 4]] } },
    ],
  ])("%s is refused by name", (name, record) => {
    expect(errorOf(record).message).toContain(`"${name}"`);
  });

  it("a label that is no verdict, and empty fields of other tasks, are no reason to refuse", () => {
    const { unused } = read({
      messages: TEXT,
      label: "greeting",
      rejected_response: null,
      tools: "[]".slice(2),
    });
    expect(unused).toEqual(new Set(["label"]));
  });
});

describe("pictures", () => {
  const imagesOf = (images: unknown, text = "<image>Colour?") =>
    sampleOf({ messages: [{ role: "user", content: text }, TEXT[1]], images }).images;

  it.each([[null], [""], [[]], [[""]], [[null]], [{}], [[{ bytes: null, path: null }]]])(
    "%j is none",
    (images) => {
      expect(imagesOf(images, "Hi")).toEqual([]);
      expect(
        sampleOf({ messages: TEXT, images, image: images, videos: null, video: [""], audios: [] }).images,
      ).toEqual([]);
    },
  );

  it.each([
    ["a path", "a.png", "a.png"],
    ["an object with a path", { path: "a.png" }, "a.png"],
    ["a path beside empty bytes", { bytes: null, path: "a.png" }, "a.png"],
    ["a relative file URL", "file:a%20b.png", "a b.png"],
    ["an absolute file URL", "file:///pictures/a%20b.png", "/pictures/a b.png"],
    ["a data URI", "data:image/png;base64,aGk=", "data:image/png;base64,aGk="],
    ["bytes in base64, before a path", { bytes: "aGk=", path: "a.png" }, "data:;base64,aGk="],
    ["bytes as numbers", { bytes: [104, 105] }, "data:;base64,aGk="],
    ["bytes as Node's JSON has them", { bytes: { type: "Buffer", data: [104, 105] } }, "data:;base64,aGk="],
  ])("%s is read", (_, picture, path) => {
    expect(imagesOf([picture])).toEqual([path]);
    expect(imagesOf([[picture]])).toEqual([path]);
    expect(imagesOf(picture)).toEqual([path]);
  });

  it.each(["https://example.org/a.png", "HTTP://example.org/a.png", "s3://bucket/a.png"])(
    "%s is refused in one line",
    (url) => {
      const { message } = errorOf({ messages: DIALOGUE, images: [url] });
      expect(message).toBe(`data.jsonl:4: sample 3 names a picture on the web, "${url}": download it first.`);
    },
  );

  it.each([7, true, { file: "a.png" }, [["a.png"]], { bytes: [300] }])(
    "%j is refused with its place",
    (picture) => {
      expect(errorOf({ messages: DIALOGUE, images: [picture] }).message).toContain("images[0]");
    },
  );

  it("base64 without a word of what it is is refused, and shown cut", () => {
    const { message, fix } = errorOf({ messages: DIALOGUE, images: ["iVBORw0KGgo".repeat(1000)] });
    expect(message).toContain("names a picture by 11000 characters");
    expect(message.length).toBeLessThan(200);
    expect(fix).toContain("data:image/png;base64,");
  });

  it("videos and sound are refused", () => {
    for (const field of ["video", "videos", "audio", "audios"])
      expect(errorOf({ messages: TEXT, [field]: ["a.mp4"] }).message).toContain(
        `${field}: only pictures can be trained on`,
      );
  });
});

describe("content as parts", () => {
  const user = (...content: unknown[]) => ({ role: "user", content });
  const answer = { role: "assistant", content: [{ type: "text", text: "Red." }] };

  it.each([
    ["TRL", { type: "image", image: "a.png" }],
    ["OpenAI", { type: "image_url", image_url: { url: "a.png" } }],
    ["OpenAI, short", { type: "image_url", image_url: "a.png" }],
    ["LLaMA-Factory v1", { type: "image_url", value: "a.png" }],
    ["transformers", { type: "image", path: "a.png" }],
    ["datasets", { type: "image", text: null, image: { bytes: null, path: "a.png" } }],
    ["Anthropic", { type: "image", source: { type: "url", url: "a.png" } }],
  ])("%s: a picture stands where its part stands", (_, picture) => {
    const sample = sampleOf({ messages: [user({ type: "text", text: "Colour of " }, picture, "?"), answer] });
    expect(sample.turns.map(({ text }) => text)).toEqual(["Colour of <ImageHere>?", "Red."]);
    expect(sample.images).toEqual(["a.png"]);
  });

  it("a part without a picture of its own takes the record's next one", () => {
    const messages = [user({ type: "image" }, { type: "image", image: "b.png" }, { type: "image" }), answer];
    expect(sampleOf({ messages, images: ["a.png", "c.png"] }).images).toEqual(["a.png", "b.png", "c.png"]);
  });

  it("pictures that are named twice, in parts and in the record, count once", () => {
    const messages = [user({ type: "image", image: "a.png" }, { type: "text", value: "?" }), answer];
    expect(sampleOf({ messages, images: ["a.png"] }).images).toEqual(["a.png"]);
  });

  it("other parts are refused by name", () => {
    for (const type of ["video", "tool_use", "input_audio"])
      expect(errorOf({ messages: [user({ type }), answer] }).message).toContain(
        `messages[0].content[0].type: "${type}" is neither text nor image`,
      );
  });

  it("prompt and completion are turns or texts", () => {
    expect(linesOf({ prompt: [user("Hi")], completion: [answer] })).toEqual(["user: Hi", "assistant: Red."]);
    expect(linesOf({ prompt: "Hi", completion: "Hello." })).toEqual(["user: Hi", "assistant: Hello."]);
  });
});

it("samples of ids need no labels to be read", () => {
  const { sample } = read({ input_ids: [1, 5, 6] });
  expect(sample).toMatchObject({ kind: "tokens", inputIds: Int32Array.of(1, 5, 6), labels: undefined });
});

it("a sample with a million pictures or turns is refused before each becomes an object", () => {
  const images = Array.from({ length: 1e6 }, (_, index) => `${index}.png`);
  expect(errorOf({ messages: TEXT, images }).message).toContain("has 1,000,000 pictures");
  const history = Array.from({ length: 1e6 }, () => ["q", "a"]);
  expect(errorOf({ query: "q", response: "a", history }).message).toContain(
    'has 1,000,000 turns in "history"',
  );
});

it("a million wrong ids, and values nested a million deep, are one error", () => {
  expect(errorOf({ input_ids: Array(1e6).fill("x"), labels: [] }).message).toContain(
    'input_ids[0]: "x" is no id',
  );
  const deep = JSON.parse("[".repeat(1e6) + "]".repeat(1e6));
  expect(errorOf({ messages: DIALOGUE, images: deep }).message).toContain("images[0]: a list is no picture");
  expect(errorOf({ messages: deep }).message).toContain("messages[0]: a list is no turn");
  expect(read({ messages: TEXT, note: deep }).unused).toEqual(new Set(["note"]));
});
