import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { jsonFault } from "./jsonFault.ts";

describe("the fault of a text", () => {
  it.each([
    ['[\n  {"a": 1},\n  oops\n]', 3, 3, "a value"],
    ['[\n  {"a": 1\n   "b": 2}]', 3, 4, ", or }"],
    ["[{'a': 1}]", 1, 3, "a name in quotes or }"],
    ['{"a": 1,}', 1, 9, "a name in quotes"],
    ['{"a" 1}', 1, 6, ":"],
    ["[1, 2", 1, 6, ", or ]"],
    ["[1] [2]", 1, 5, "the end"],
    ["", 1, 1, "a value"],
    ["[1}", 1, 3, ", or ]"],
    ['["a\nb"]', 1, 2, "a string that ends with \" on its line, and only JSON's escapes in it"],
    ["[01]", 1, 2, "a value or ]"],
  ])("%j is at line %i, column %i", (text, line, column, expected) => {
    expect(jsonFault(text)).toEqual({ line, column, expected });
  });

  it("is there exactly where JSON.parse refuses", () => {
    const mutation = fc.record({
      json: fc.json({ maxDepth: 4 }),
      at: fc.nat(),
      insert: fc.constantFrom("", '"', "[", "}", ",", ":", "1", "-", "\\", "\n", " ", "e"),
    });
    const property = fc.property(mutation, fc.nat(2), ({ json, at, insert }, removed) => {
      const place = at % (json.length + 1);
      const text = json.slice(0, place) + insert + json.slice(place + removed);
      expect(jsonFault(text) === undefined).toBe(parses(text));
    });
    fc.assert(property, { numRuns: 5000 });
  });

  it("is found behind a string of megabytes", () => {
    expect(jsonFault(`["${"a\\n".repeat(3e6)}" 1]`)?.expected).toBe(", or ]");
  });
});

function parses(text: string): boolean {
  try {
    JSON.parse(text);
    return true;
  } catch {
    return false;
  }
}
