import { expect, test } from "vitest";
import { generateFunctions, generateMethods } from "./opsGenerator.ts";
import { parseSchema } from "./schema.ts";

test("the generated files are what the tables and libtorch's schemas give", async () => {
  await expect(generateMethods()).toMatchFileSnapshot("./methods.gen.ts");
  await expect(generateFunctions()).toMatchFileSnapshot("./ops.gen.ts");
});

test("a schema's parts are read, defaults with commas and alias marks too", () => {
  const schema = parseSchema(
    "aten::pool_.out(Tensor(a!) self, int[2] stride=[1, 1], Tensor?[] rest, *, ScalarType? dtype=None) -> (Tensor(a!) out, SymInt n)",
  );
  expect(schema.name).toBe("aten::pool_.out");
  expect(schema.arguments).toEqual([
    {
      name: "self",
      type: "Tensor",
      written: true,
      hasDefault: false,
      keywordOnly: false,
    },
    {
      name: "stride",
      type: "int[2]",
      written: false,
      hasDefault: true,
      keywordOnly: false,
    },
    {
      name: "rest",
      type: "Tensor?[]",
      written: false,
      hasDefault: false,
      keywordOnly: false,
    },
    {
      name: "dtype",
      type: "ScalarType?",
      written: false,
      hasDefault: true,
      keywordOnly: true,
    },
  ]);
  expect(schema.returns).toEqual([
    { name: "out", type: "Tensor", written: true },
    { name: "n", type: "SymInt", written: false },
  ]);
});
