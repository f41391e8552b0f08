import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { UserError } from "../../errors.ts";
import { checkPattern, firstMatches, fromPython } from "./patterns.ts";

const NAMES = ["model.layers.0.attention.wqkv", "model.layers.1.feed_forward.w1", "a".repeat(64)];
const match = (...patterns: string[]): (string | undefined)[] => {
  const found = firstMatches(patterns, NAMES, { place: "here" });
  return NAMES.map((name) => found.get(name));
};

describe("patterns", () => {
  it("give each name the first that matches somewhere in it", () => {
    expect(match("w1$", "layers\\.[01]\\.", "a+")).toEqual(["layers\\.[01]\\.", "w1$", "a+"]);
    expect(match("feed_forward.w1")).toEqual([undefined, "feed_forward.w1", undefined]);
    expect(match("(?i)WQKV|(?P<part>nothing)")).toEqual(["(?i)WQKV|(?P<part>nothing)", undefined, undefined]);
  });

  it("may be a list of names of any length", () => {
    const others = Array.from({ length: 1000 }, (_, at) => `model\\.layers\\.${at}\\.attention\\.wo`);
    const list = `^(?:${[...others, "model\\.layers\\.0\\.attention\\.wqkv"].join("|")})$`;
    expect(match(list)).toEqual([list, undefined, undefined]);
  });

  it.each([
    ["(", "is not a regular expression that lorafit can use: missing closing )"],
    ["(?!wo)w", "lookahead, lookbehind and backreferences"],
    ["(a)\\1", "lookahead, lookbehind and backreferences"],
    ["a|".repeat(501), "has 1002 characters; at most 1000"],
    [".{0,1000}".repeat(80), "are too much work"],
    ["((((a{0,100}){0,100}){0,100}){0,100})", "is not a regular expression that lorafit can use"],
  ])("are refused by name: %s", (pattern, message) => {
    try {
      checkPattern(pattern, "lora_targets");
    } catch (thrown) {
      expect(thrown).toBeInstanceOf(UserError);
      const { message: said, fix } = thrown as UserError;
      expect(`${said} ${fix}`).toContain(message);
      expect(said).toMatch(/^lora_targets: /);
      return;
    }
    throw new Error("it was accepted");
  });

  it("that JavaScript would match for years are matched at once", () => {
    expect(match("^(a+)+$", "(.*.*)*x")).toEqual([undefined, undefined, "^(a+)+$"]);
  });

  it("are bounded in number, too", () => {
    const many = Array.from({ length: 10_000 }, (_, at) => `name.${at}`);
    expect(() => firstMatches(many, many, { place: "rank_pattern" })).toThrow(
      "rank_pattern: its patterns are too much work",
    );
  });

  it("of plain names and of one-letter classes agree with JavaScript", () => {
    const part = fc.constantFrom("a", "b", ".", "[ab]", "a*", "(a|b)", "b?", "^", "$");
    fc.assert(
      fc.property(fc.array(part, { maxLength: 6 }), fc.stringMatching(/^[ab]{0,6}$/), (parts, text) => {
        const pattern = parts.join("");
        const found = firstMatches([pattern], [text], { place: "here" }).has(text);
        expect(found).toBe(new RegExp(pattern).test(text));
      }),
    );
  });
});

it("Python's spellings are rewritten outside of classes and escapes alone", () => {
  expect(fromPython("a{,3}\\Z")).toBe("a{0,3}\\z");
  expect(fromPython("[]a]b[^]c]")).toBe("[\\]a]b[^\\]c]");
  expect(fromPython("[{,3}]\\\\Z\\{,3}")).toBe("[{,3}]\\\\Z\\{,3}");
});
