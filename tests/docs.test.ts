import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { COMMAND_OPTIONS, type CommandName } from "../src/cli/args/commandOptions.ts";
import { readCommand } from "../src/cli/args/readCommand.ts";
import { readDataset } from "../src/data/samples/samples.ts";

const ROOT = fileURLToPath(new URL("..", import.meta.url));
const DOCUMENTS = ["README.md", ...documentsOf("docs")];
function documentsOf(folder: string): string[] {
  const names = readdirSync(join(ROOT, folder)).filter((name) => name.endsWith(".md"));
  return names.map((name) => join(folder, name));
}
const textOf = (document: string): string => readFileSync(join(ROOT, document), "utf8");

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "docs-"));
});
afterAll(() => rmSync(folder, { recursive: true }));

describe("the examples of docs/data.md are data sets", () => {
  const blocks = [...textOf("docs/data.md").matchAll(/^```(jsonl?)\n([\s\S]*?)^```/gm)];
  it.each(blocks.map(([, ending, text], index) => [index, ending!, text!] as const))(
    "block %i",
    (index, ending, text) => {
      const file = join(folder, `${index}.${ending}`);
      writeFileSync(file, text);
      const { samples, bad } = readDataset(file);
      expect(bad).toEqual([]);
      expect(samples).not.toEqual([]);
      for (const sample of samples) expect(sample.images).toHaveLength(1);
    },
  );
});

it("README's file tree names what is there", () => {
  const tree = textOf("README.md").split("## Where things are")[1]!.split("\n## ")[0]!;
  const paths = [...tree.matchAll(/^ {4}( {2})?([\w./]+) {2,}\S/gm)];
  expect(paths.length).toBeGreaterThan(12);
  for (const [, nested, path] of paths)
    expect(existsSync(join(ROOT, nested ? "src" : "", path!)), path).toBe(true);
});

it.each(DOCUMENTS)("links of %s lead somewhere", (document) => {
  for (const [, link] of textOf(document).matchAll(/\]\((?!https?:)([^)#]+)[^)]*\)/g)) {
    expect(existsSync(resolve(ROOT, dirname(document), link!)), link).toBe(true);
  }
});

it.each(DOCUMENTS)("lines of %s can be read in a terminal, but for tables and code", (document) => {
  const prose = textOf(document).replaceAll(/^```[\s\S]*?^```$/gm, "");
  for (const line of prose.split("\n")) {
    if (!/^(\|| {4})/.test(line)) expect(line.length, line).toBeLessThanOrEqual(160);
  }
});

it.each(DOCUMENTS)("what %s has make do can be made", (document) => {
  const targets = readFileSync(join(ROOT, "Makefile"), "utf8")
    .match(/^\.PHONY: (.*)$/m)![1]!
    .split(" ");
  for (const [, target] of textOf(document).matchAll(/(?:^ {4}|`|&& )make ([a-z-]+)/gm))
    expect(targets).toContain(target);
});

it.each(DOCUMENTS)("command lines of %s have flags that exist", (document) => {
  const lines = [
    ...textOf(document)
      .replaceAll("\\\n", " ")
      .matchAll(/^\s*(?:npx lorafit|\.\/lorafit) (sweep show|\w+)(.*)$/gm),
  ];
  if (document === "README.md") expect(lines.length).toBeGreaterThan(10);
  for (const [line, name, rest] of lines) {
    if (rest!.trim() === "" || /--(resume|config)/.test(rest!)) continue; // needs a run or its options
    expect(Object.keys(COMMAND_OPTIONS), line).toContain(name);
    const words = [...rest!.replace(/ [#<>] .*$/, "").matchAll(/"([^"]*)"|(\S+)/g)].map(
      ([, quoted, word]) => quoted ?? word!,
    );
    expect(readCommand(name as CommandName, words, 80).kind, line).toBe("run");
  }
});
