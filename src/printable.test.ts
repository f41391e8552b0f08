import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { UserError } from "./errors.ts";
import { printable, shownName } from "./printable.ts";

/** Code points that steer a terminal or turn the direction of writing, and halves of characters. */
const STEERING: [first: number, last: number][] = [
  [0x00, 0x08],
  [0x0b, 0x1f],
  [0x7f, 0x9f],
  [0x61c, 0x61c],
  [0x200e, 0x200f],
  [0x2028, 0x202e],
  [0x2066, 0x2069],
  [0xd800, 0xdfff],
];
const steers = (character: string): boolean => {
  const code = character.codePointAt(0) as number;
  return STEERING.some(([first, last]) => code >= first && code <= last);
};
const anyText = fc.string({ unit: "binary", maxLength: 1000 });

describe("text for people", () => {
  it.each([
    ["\x1b[31mred\x07", "\\u001b[31mred\\u0007"],
    ["\x9b31m", "\\u009b31m"],
    ["gpj.\u202eexe\u2066", "gpj.\\u202eexe\\u2066"],
    ["one\r\ntwo\tthree", "one\\r\ntwo\tthree"],
    ["\u00e4\u4e16\u{1f600} \u05d0\u0628", "\u00e4\u4e16\u{1f600} \u05d0\u0628"],
    ["half \ud83d", "half \\ud83d"],
  ])("%j", (text, shown) => {
    expect(printable(text)).toBe(shown);
  });

  it("holds no character that steers a terminal, whatever it is made of", () => {
    fc.assert(
      fc.property(anyText, (text) => {
        expect(Array.from(printable(text)).filter(steers)).toEqual([]);
      }),
    );
  });

  it("is JSON again where it was JSON", () => {
    fc.assert(
      fc.property(anyText, (text) => {
        expect(JSON.parse(printable(JSON.stringify(text)))).toBe(text);
      }),
    );
  });
});

describe("a name", () => {
  it("stays on one line and is cut at 120 characters", () => {
    expect(shownName("a\nb")).toBe("a\\nb");
    expect(shownName("x".repeat(120))).toBe("x".repeat(120));
    expect(shownName("x".repeat(1_400_000))).toBe(`${"x".repeat(120)}... (1400000 characters)`);
  });
});

describe("a user's error", () => {
  it("is escaped, in its message and its fix", () => {
    const { message, fix } = new UserError("a\x1b[2J.png is not there.", { fix: "rm 'a\x9b\u202e.png'" });
    expect({ message, fix }).toEqual({
      message: "a\\u001b[2J.png is not there.",
      fix: "rm 'a\\u009b\\u202e.png'",
    });
  });

  it("is cut where a picture as base64 stands for a path, and keeps paths that people have", () => {
    const path = `/home/${"folder/".repeat(30)}page.png`;
    expect(new UserError(`${path} is not there.`).message).toBe(`${path} is not there.`);
    expect(new UserError(`${"QUJD".repeat(350_000)} is not there.`).message.length).toBeLessThan(200);
    expect(new UserError("two words ".repeat(100_000)).message.length).toBeLessThan(4100);
    const named = `"${"two words ".repeat(50)}" is not a speaker: use "user" or "assistant".`;
    expect(new UserError(named).message).toBe(
      `"${"two words ".repeat(12)}... (500 characters)" is not a speaker: use "user" or "assistant".`,
    );
  });
});
