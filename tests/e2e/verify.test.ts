import { chmodSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, it } from "vitest";
import { golden } from "../helpers/shared.ts";
import { lorafit, records } from "./lorafit.ts";

const folder = mkdtempSync(join(tmpdir(), "verify-"));
const work = mkdtempSync(join(folder, "work-"));
afterAll(() => rmSync(folder, { recursive: true }));

const data = join(folder, "questions.json");
writeFileSync(
  data,
  JSON.stringify([
    { id: 0, input_ids: [1, 5, 6, 2, 7, 8] },
    { id: 1, input_ids: [1, 9, 9] },
  ]),
);

const command = ["verify", "--model", golden("tiny"), "--adapter", golden("tiny_lora"), "--data", data];
const verify = (python: string, ...more: string[]) =>
  lorafit([...command, "--work", work, "--python", python, ...more]);

/** Writes a program that stands for a Python with torch and peft, and merges by the given shell command. */
function pythonThat(merges: string): string {
  const file = join(folder, `python-${Math.random()}`);
  const report =
    '{"peft":"0","torch":"0","linears":[{"linear":"a","differing":1,"weights":2,"largest":0.5,"largestWeight":1}]}';
  writeFileSync(file, `#!/bin/sh\n[ "$1" = -c ] && exit 0\n${merges}\necho '${report}'\n`);
  chmodSync(file, 0o755);
  return file;
}

it("finds the merged checkpoint equal to the adapter applied, and says why PEFT is not compared", () => {
  const [result] = records(verify("no-such-python", "--json"));
  expect(result).toEqual({
    samples: 2,
    comparisons: [{ by: "lorafit", equal: 2, differences: [] }],
    withoutPeft: "there is no no-such-python",
  });
  expect(readdirSync(work)).toEqual([]);
});

it("names the first token that differs, and ends with exit code 1", () => {
  const unmerged = pythonThat('mkdir -p "$5" && cp "$2"/* "$5"'); // the base model, as if nothing was merged
  const { code, stdout } = verify(unmerged, "--json");
  expect(code).toBe(1);
  const { comparisons } = JSON.parse(stdout);
  expect(comparisons[1]).toMatchObject({ by: "peft", peft: "0", linears: [{ linear: "a" }] });
  for (const { token, applied, other } of comparisons[1].differences) {
    expect(applied.ids.slice(0, token)).toEqual(other.ids.slice(0, token));
    expect(applied.ids[token]).not.toBe(other.ids[token]);
  }
  expect(comparisons[1].differences.length + comparisons[1].equal).toBe(2);
  expect(comparisons[1].differences).not.toHaveLength(0);
  const people = verify(unmerged);
  expect(people.stdout).toContain("merged by lorafit: 2 of 2 answers equal");
  expect(people.stdout).toMatch(/sample 0 differs from token \d+ on\n {4}applied .*\n {4}merged /);
  expect(people.stdout).toContain("by 0.50 (largest weight 1.0)");
});

it("passes on what PEFT says when it fails, and leaves nothing behind", () => {
  const { code, stderr } = verify(pythonThat("echo 'ValueError: no place for q_proj' >&2; exit 1"));
  expect(code).toBe(1);
  expect(stderr).toContain("error: PEFT could not merge the adapter: ValueError: no place for q_proj");
  expect(readdirSync(work)).toEqual([]);
});
