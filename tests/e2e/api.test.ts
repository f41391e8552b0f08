import { spawnSync } from "node:child_process";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import type { Model, TrainInput, train } from "lorafit";
import { afterAll, beforeAll, expect, expectTypeOf, it } from "vitest";
import { lorafit } from "./lorafit.ts";

const ROOT = fileURLToPath(new URL("../..", import.meta.url));
const docs = readFileSync(join(ROOT, "docs/api.md"), "utf8");

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "api-"));
  mkdirSync(join(folder, "node_modules"));
  symlinkSync(ROOT, join(folder, "node_modules/lorafit")); // as npm install creates it
});
afterAll(() => rmSync(folder, { recursive: true }));

function runModule(source: string): { code: number | null; stdout: string; stderr: string } {
  writeFileSync(join(folder, "program.mjs"), source);
  const { status, stdout, stderr } = spawnSync(process.execPath, ["program.mjs"], {
    cwd: folder,
    encoding: "utf8",
  });
  return { code: status, stdout, stderr };
}

function blocksOf(language: string): string[] {
  return [...docs.matchAll(new RegExp(`^\`\`\`${language}\n([\\s\\S]*?)^\`\`\``, "gm"))].map(
    ([, code]) => code!,
  );
}

it("the program of docs/api.md runs as it stands, by the package's name", () => {
  const commands = blocksOf("sh")
    .join("")
    .match(/^npx lorafit (tiny|pages) .*$/gm)!;
  expect(commands).toHaveLength(2);
  for (const command of commands) {
    expect(lorafit(command.split(/\s+/).slice(2), { cwd: folder })).toMatchObject({ code: 0 });
  }
  const { code, stdout, stderr } = runModule(blocksOf("js").join("\n"));
  expect(stderr).toBe("");
  expect(code).toBe(0);
  expect(stdout).toMatch(/^step 1: loss \d+\.\d+, [\d.]+ MiB\nstep 2: /);
  expect(stdout).toContain("hd_num takes a whole number, 1 or more (got -1).");
  expect(existsSync(join(folder, "merged/config.json"))).toBe(true);
});

it("docs/api.md speaks of all that the package exports", () => {
  const { stdout } = runModule('import * as all from "lorafit"; console.log(Object.keys(all).join(" "));');
  const names = stdout.trim().split(" ");
  expect(names).toContain("train");
  const code = docs.match(/```js[\s\S]*?```|`[^`\n]+`/g)!.join("\n");
  expect(names.filter((name) => !new RegExp(`\\b${name}\\b`).test(code))).toEqual([]);
});

it("the package comes with its types", () => {
  expectTypeOf<TrainInput>().toHaveProperty("lora_r").toEqualTypeOf<number | undefined>();
  expectTypeOf<typeof train>().parameter(0).toEqualTypeOf<TrainInput>();
  expectTypeOf<Model>().toHaveProperty("config");
});
