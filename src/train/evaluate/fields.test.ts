import { expect, it } from "vitest";
import { fieldsOf } from "./fields.ts";

it("are paths of keys with values; places in lists do not count", () => {
  // the example in the docstring of Donut's JSONParseEvaluator.flatten
  const menu = {
    menu: [
      { name: ["cake"], count: ["2"] },
      { name: ["juice"], count: ["1"] },
    ],
  };
  const fields = [
    ["menu", "name", "cake"],
    ["menu", "count", "2"],
    ["menu", "name", "juice"],
    ["menu", "count", "1"],
  ];
  expect(fieldsOf(JSON.stringify(menu))?.sort()).toEqual(fields.map((field) => JSON.stringify(field)).sort());
});

it("leave out what is empty, and keep 0 and false", () => {
  expect(fieldsOf('{"a": "", "b": null, "c": {}, "d": [], "e": " "}')).toEqual([]);
  expect(fieldsOf('{"a": 0}')).toEqual(['["a","0"]']);
  expect(fieldsOf('{"a": false}')).toEqual(['["a","false"]']);
});

it("compare values as texts without white space around them, and keys as they are", () => {
  expect(fieldsOf('{"total": " 12.50 "}')).toEqual(fieldsOf('{"total": "12.50"}'));
  expect(fieldsOf('{"total": 7}')).toEqual(fieldsOf('{"total": "7"}'));
  expect(fieldsOf('{"a.b": "x"}')).not.toEqual(fieldsOf('{"a": {"b": "x"}}'));
  expect(fieldsOf('{"__proto__": "x"}')).toEqual(['["__proto__","x"]']);
});

it.each(["", "12.50", '"text"', "null", '{"a": "cut', "```json\n{}\n```"])("are none in %o", (text) => {
  expect(fieldsOf(text)).toBeUndefined();
});

it("are found below many brackets", () => {
  const depth = 50_000;
  expect(fieldsOf(`${"[".repeat(depth)}"x"${"]".repeat(depth)}`)).toEqual(['["x"]']);
});
