import fc from "fast-check";
import { expect, it } from "vitest";
import { unpickle } from "./pickle.ts";
import { type Picklable, pickled } from "./pickleWriter.ts";
import { torchHost } from "./torchPickle.ts";

function readBack(value: Picklable): unknown {
  const bytes = pickled(value);
  const { value: read, end } = unpickle(bytes, "f.pickle", torchHost("f.pickle", new Map()));
  expect(end).toBe(bytes.length);
  return read;
}

/** Dicts are read as Maps. */
function asRead(value: Picklable): unknown {
  if (Array.isArray(value)) return value.map(asRead);
  if (typeof value !== "object" || value === null) return value;
  return new Map(Object.entries(value).map(([key, item]) => [key, asRead(item)]));
}

const values = fc.letrec<{ value: Picklable }>((tie) => ({
  value: fc.oneof(
    { depthSize: "small" },
    fc.constantFrom(null, true, false),
    fc.oneof(fc.integer(), fc.maxSafeInteger(), fc.double({ noNaN: true })),
    fc.string({ unit: "grapheme", maxLength: 300 }),
    fc.array(tie("value")),
    fc.dictionary(fc.string(), tie("value")).map((made) => ({ ...made })),
  ),
})).value;

it("every plain value is read back", () => {
  fc.assert(
    fc.property(values, (value) => {
      expect(readBack(value)).toEqual(asRead(value));
    }),
  );
});

it("numbers at the edges of each form are read back", () => {
  const numbers = [
    0,
    255,
    256,
    2 ** 31 - 1,
    2 ** 31,
    -1,
    -(2 ** 31),
    -(2 ** 31) - 1,
    2 ** 53 - 1,
    -0,
    0.5,
    1e300,
  ];
  expect(readBack(numbers)).toEqual(numbers);
});

it("a list that stands twice is one object, and its text is there once", () => {
  const frames = [{ name: "linear", filename: "src/nn/linear.ts", line: 12 }];
  const bytes = pickled([frames, frames]);
  expect(bytes.toString("latin1").split("src/nn/linear.ts")).toHaveLength(2);
  const [first, second] = readBack([frames, frames]) as unknown[];
  expect(first).toBe(second);
});

it("a long list is appended in parts, as the viewer's own reader needs it", () => {
  const parts = [...pickled(Array.from({ length: 5000 }, () => null))].filter((byte) => byte === 0x65);
  expect(parts).toHaveLength(5);
});

it("more values than fit into the first buffer, and more memo places than a byte counts", () => {
  const many = Array.from({ length: 20_000 }, (_, at) => `text number ${at}`);
  expect(readBack([...many, ...many])).toEqual([...many, ...many]);
  const dict = Object.fromEntries(many.map((text, at) => [text, at]));
  expect(readBack(dict)).toEqual(new Map(Object.entries(dict)));
});
