import { describe, expect, it } from "vitest";
import { trim, trimEnd, trimStart } from "./whitespace.ts";

/** Every character for which Python's str.isspace() is true. */
const PYTHON_SPACES = [
  ...[0x09, 0x0a, 0x0b, 0x0c, 0x0d, 0x1c, 0x1d, 0x1e, 0x1f, 0x20, 0x85, 0xa0, 0x1680],
  ...[0x2000, 0x2001, 0x2002, 0x2003, 0x2004, 0x2005, 0x2006, 0x2007, 0x2008, 0x2009, 0x200a],
  ...[0x2028, 0x2029, 0x202f, 0x205f, 0x3000],
];

describe("trimming", () => {
  it("cuts off what Python's strip does, and nothing else", () => {
    const trimmed = Array.from({ length: 0x10000 }, (_, code) => code).filter(
      (code) => trim(String.fromCharCode(code)) === "",
    );
    expect(trimmed).toEqual(PYTHON_SPACES);
  });

  it("leaves the other end and the middle alone", () => {
    expect(trimStart("\x1f\n a b \x85")).toBe("a b \x85");
    expect(trimEnd("\x1f\n a b \x85")).toBe("\x1f\n a b");
    expect(trim(" \n ")).toBe("");
  });
});
