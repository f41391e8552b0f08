import { describe, expect, it } from "vitest";
import { z } from "zod";
import { byteAmount, checked, group, optionSpecs, parseOptions, refuseTogether } from "./options.ts";

const Options = z
  .strictObject({
    ...group("Shape", {
      rank: z.int().positive().default(8).meta({ help: "size of it", advice: "8 is usual." }),
      share: z.number().min(0).lt(1).optional().meta({ help: "part of it" }),
      rate: z.number().positive().optional(),
      course: z.enum(["up", "down"]).default("up"),
      files: z
        .union([z.string(), z.array(z.string()).min(1)])
        .meta({ help: "the files", value: "FILE", takes: "files" }),
    }),
    cap: byteAmount.optional(),
    fast: z.boolean().default(false),
    resume: z.union([z.boolean(), z.string()]).default(false),
    pattern: z
      .string()
      .transform((text, context) => checked(context, () => new RegExp(text).source))
      .optional(),
    steps: z.int().optional(),
    epochs: z.int().optional(),
  })
  .superRefine((options, context) => refuseTogether(options, [["steps", "epochs"]], context));

const specs = Object.fromEntries(optionSpecs(Options).map((spec) => [spec.key, spec]));
const wrong = (raw: Record<string, unknown>): unknown => {
  try {
    return parseOptions(Options, { files: "a", ...raw }, (key) => `--${key}`);
  } catch (thrown) {
    return thrown;
  }
};

describe("what a right value is, in words", () => {
  it.each([
    ["rank", "a whole number, 1 or more"],
    ["share", "a number from 0 to below 1"],
    ["rate", "a number above 0"],
    ["course", "up or down"],
    ["files", "files"],
    ["cap", "an amount of memory, as 32GiB, 300MiB or 8GB"],
    ["fast", "true or false"],
    ["steps", "a whole number"],
  ])("%s: %s", (key, words) => {
    expect(specs[key]?.takes).toBe(words);
  });
});

it("tells switches, values and lists apart", () => {
  expect(specs.fast).toMatchObject({ kind: "switch", many: false });
  expect(specs.resume).toMatchObject({ kind: "either", many: false });
  expect(specs.files).toMatchObject({ kind: "value", many: true, required: true, numeric: false });
  expect(specs.rank).toMatchObject({ kind: "value", numeric: true, required: false, default: 8 });
  expect(specs.cap).toMatchObject({ kind: "value", numeric: false });
});

it("puts a group's options under its heading", () => {
  expect(specs.rank?.group).toBe("Shape");
  expect(specs.fast?.group).toBe("Options");
});

describe("errors", () => {
  it("name the option, what it takes and what it got", () => {
    expect(wrong({ rank: 0 })).toMatchObject({
      message: "--rank takes a whole number, 1 or more (got 0).",
      fix: "8 is usual.",
    });
    expect(wrong({ rank: "many" })).toMatchObject({
      message: '--rank takes a whole number, 1 or more (got the text "many").',
    });
    expect(wrong({ cap: "much" })).toMatchObject({ message: expect.stringContaining('(got "much")') });
    expect(wrong({ pattern: "(" })).toMatchObject({ message: '--pattern takes a text (got "(").' });
    expect(wrong({ files: ["a", 1] })).toMatchObject({ message: '--files takes files (got ["a",1]).' });
  });

  it("say what a missing option is for", () => {
    expect(wrong({ files: undefined })).toMatchObject({
      message: "--files is missing: the files.",
      fix: "Pass --files FILE.",
    });
  });

  it("refuse two options that state the same thing", () => {
    expect(wrong({ steps: 1, epochs: 1 })).toMatchObject({
      message: "--epochs cannot be given together with --steps.",
    });
  });

  it("come at once, each with what to do about it", () => {
    expect(wrong({ rank: 0, ranks: 1, steps: 1, epochs: 1, files: undefined })).toMatchObject({
      message: [
        "3 options are wrong:",
        "  --rank takes a whole number, 1 or more (got 0). 8 is usual.",
        "  --files is missing: the files. Pass --files FILE.",
        "  --ranks is not an option. Options are rank, share, rate, course, files, cap, fast, resume, pattern, steps, epochs.",
      ].join("\n"),
    });
  });

  it("refuse what is no option", () => {
    expect(wrong({ ranks: 1 })).toMatchObject({ message: "--ranks is not an option." });
  });
});

it("reads amounts of memory as bytes", () => {
  expect(wrong({ cap: "2GiB" })).toMatchObject({ cap: 2 ** 31 });
  expect(wrong({ cap: 1000 })).toMatchObject({ cap: 1000 });
});
