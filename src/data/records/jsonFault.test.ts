import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { jsonFault } from "./jsonFault.ts";

describe("the fault of a text", () => {
  it.each([
    ['[\n  {"a": 1},\n  oops\n]', 3, 3, "a value"],
    ['[\n  {"a": 1\n   "b": 2}]', 3, 4, "a comma or a closing bracket"],
    ["[{'a': 1}]", 1, 3, "a value"],
    ['{"a": 1,}', 1, 9, "a name in quotes"],
    ['{"a" 1}', 1, 6, "a colon"],
    ["[1, 2", 1, 6, "a comma or ]"],
    ["[1] [2]", 1, 5, "the end"],
    ["", 1, 1, "a value"],
    ["[1}", 1, 3, "a comma or a closing bracket"],
    ['["a\nb"]', 1, 2, 'a string that ends with " on its line'],
    ["[01]", 1, 3, "a comma or a closing bracket"],
  ])("%j is at line %i, column %i", (text, line, column, expected) => {
    expect(jsonFault(text)).toEqual({ line, column, expected });
  });

  it("is found in every text that JSON.parse refuses", () => {
    const mutation = fc.record({
      json: fc.json({ maxDepth: 4 }),
      at: fc.nat(),
      insert: fc.constantFrom("", '"', "[", "}", ",", ":", "1", "-", "\\", "\n", " ", "e", "\u00a0", "/*a*/"),
    });
    const property = fc.property(mutation, fc.nat(2), ({ json, at, insert }, removed) => {
      const place = at % (json.length + 1);
      const text = json.slice(0, place) + insert + json.slice(place + removed);
      if (!parses(text)) expect(jsonFault(text).expected, text).not.toBe("JSON");
    });
    fc.assert(property, { numRuns: 5000 });
  });

  it("in brackets that are nested too deeply to be walked is said to be that", () => {
    expect(jsonFault("[".repeat(1e6)).expected).toBe("JSON that is not nested so deeply");
  });

  it("is found behind a string of megabytes", () => {
    expect(jsonFault(`["${"a\\n".repeat(3e6)}" 1]`).expected).toBe("a comma or a closing bracket");
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
