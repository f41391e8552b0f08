import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, it } from "vitest";
import { readCommand } from "../../src/cli/args/readCommand.ts";
import { lorafit, records } from "./lorafit.ts";

const SIZES = "--hidden 64 --layers 1 --heads 2 --kv-heads 1 --ffn 96 --vision-layers 1".split(" ");

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "init-"));
  records(lorafit(["tiny", "--output", "tiny", ...SIZES, "--json"], { cwd: folder }));
  const turns = (answer: string) => [
    { from: "user", value: "how long?" },
    { from: "gpt", value: answer },
  ];
  const data = ["short", "long ".repeat(400)].map((answer) => ({ conversations: turns(answer) }));
  writeFileSync(join(folder, "data.json"), JSON.stringify(data));
});
afterAll(() => rmSync(folder, { recursive: true }));

const init = (...args: string[]) =>
  lorafit(["init", "--model", "tiny", "--data", "data.json", ...args], { cwd: folder });

it("init writes a configuration that train takes, with the longest sample's length and a plan", () => {
  const [record] = records(init("--out", "own.yaml", "--json")) as { maxLength: number; hdNum: number }[];
  expect(record).toMatchObject({
    ...{ config: "own.yaml", samples: 2, hdNum: 16 },
    ...{ peakBytes: expect.any(Number), stepMs: expect.any(Number) },
  });
  const { maxLength } = record!;
  expect(maxLength % 64).toBe(0);
  const validated = records(
    lorafit(["validate", "--model", "tiny", "--data", "data.json", "--json"], { cwd: folder }),
  ) as { longest: number }[];
  expect(maxLength - validated[0]!.longest).toBeGreaterThanOrEqual(0);
  expect(maxLength - validated[0]!.longest).toBeLessThan(64);
  const read = readCommand("train", ["--config", join(folder, "own.yaml")], undefined);
  expect(read).toMatchObject({
    options: { model: "tiny", data: ["data.json"], hd_num: 16, max_length: maxLength, output: "output" },
  });
  expect(readFileSync(join(folder, "own.yaml"), "utf8")).toMatch(/^# lora_r: 16$/m);
});

it("init keeps what it was told, and every commented option is one of train's at its default", () => {
  expect(init("--hd-num", "4", "--max-length", "8192", "--memory", "300MiB", "--out", "told.yaml").code).toBe(
    0,
  );
  const text = readFileSync(join(folder, "told.yaml"), "utf8");
  const options = (yaml: string): object => {
    writeFileSync(join(folder, "read.yaml"), yaml);
    return readCommand("train", ["--config", join(folder, "read.yaml")], undefined);
  };
  const told = options(text);
  expect(told).toMatchObject({ options: { hd_num: 4, max_length: 8192, memory: 300 * 2 ** 20 } });
  expect(options(text.replaceAll(/^# (?=[a-z_]+: \S+$)/gm, "").replace(/^yaml-language.*$/m, ""))).toEqual(
    told,
  );
});

it("init overwrites nothing, writes nothing that does not fit, and names what is wrong with the data", () => {
  writeFileSync(join(folder, "there.yaml"), "mine");
  expect(init("--out", "there.yaml")).toMatchObject({
    code: 1,
    stderr: expect.stringContaining("is there already"),
  });
  expect(readFileSync(join(folder, "there.yaml"), "utf8")).toBe("mine");
  expect(init("--memory", "2MiB", "--out", "none.yaml")).toMatchObject({
    code: 1,
    stderr: expect.stringMatching(/need [\d.]+ MiB, more than the 2\.0 MiB/),
  });
  expect(init("--max-length", "8", "--out", "none.yaml").stderr).toContain("data.json");
  expect(existsSync(join(folder, "none.yaml"))).toBe(false);
});
