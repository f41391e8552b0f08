/**
 * Files and folders of the wrong kind. Each is reported in one line with a fix, and none ends in a stack
 * trace.
 */
import { spawnSync } from "node:child_process";
import { cpSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, it } from "vitest";
import { golden } from "../helpers/shared.ts";
import { lorafit, PROGRAM } from "./lorafit.ts";

const TINY = golden("tiny");
/** A line of steps.jsonl. */
const STEP =
  '{"step":1,"loss":4,"gradNorm":1,"lr":1,"tokens":1,"tokensPerSecond":1,"peakBytes":1,"stepMs":1,"dataWaitRatio":0,"epoch":0}\n';
const ONE_SAMPLE = JSON.stringify([{ id: 0, input_ids: [1, 5, 6, 2], labels: [-100, -100, 6, 2] }]);

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "wrong-"));
  mkdirSync(join(folder, "folder"));
  for (const name of ["set", "taken"]) mkdirSync(join(folder, name));
  writeFileSync(join(folder, "set/data.txt"), "data.json 1");
  mkdirSync(join(folder, "taken/g2_img_1x1.img0.png"));
  writeFileSync(join(folder, "empty"), "");
  writeFileSync(join(folder, "latin.json"), Buffer.from('[{"id":"caf\xe9"}]', "latin1"));
  writeFileSync(join(folder, "steps.jsonl"), STEP);
  writeFileSync(join(folder, "train.yaml"), "model: tiny\n");
  writeFileSync(join(folder, "utf16.yaml"), Buffer.from("\ufeffmodel: tiny\n", "utf16le"));
  writeFileSync(join(folder, "alias.yaml"), "model: *tiny\n");
  writeFileSync(join(folder, "one.json"), ONE_SAMPLE);
  cpSync(golden("tiny_lora"), join(folder, "alora"), { recursive: true });
  const config = join(folder, "alora/adapter_config.json");
  const json = JSON.parse(readFileSync(config, "utf8")) as object;
  writeFileSync(config, JSON.stringify({ ...json, alora_invocation_tokens: [4, 5] }));
});
afterAll(() => rmSync(folder, { recursive: true }));

it.each<[string, string]>([
  [`validate --model ${TINY} --data none.json`, "none.json can't be read: there is no such file."],
  [`validate --model ${TINY} --data folder`, "folder can't be read: it is a folder."],
  [`validate --model ${TINY} --data latin.json`, "latin.json isn't UTF-8 text."],
  ["preview --image empty", "empty is an empty file, not a picture"],
  [
    `preview --image ${golden("generate/g2_img_1x1.img0.png")} --out empty`,
    "empty is a file, and should be a folder.",
  ],
  [
    `preview --image ${golden("generate/g2_img_1x1.img0.png")} --out taken`,
    "g2_img_1x1.img0.png cannot be written",
  ],
  [`validate --model ${TINY} --data set`, "Name the file in it: "],
  ["pull", " pull internlm/internlm-xcomposer2-4khd-7b\n"],
  ["report", " report output\n"],
  ["pages --output empty/pages", "empty is a file, and should be a folder."],
  ["report . --out folder", "folder is a folder, and should be a file."],
  ["report . --preview latin.json", "latin.json is not a PNG picture."],
  ["plan --gpu rtx-4090 --html none/plan.html", "the folder that it should go to is not there."],
  [`eval --model ${TINY} --data latin.json --memory 12`, "Write the unit too: 12GiB."],
  ["plan --memory 12", "Write the unit too: 12GiB."],
  [`eval --model ${TINY} --data one.json --adapter alora`, "alora_invocation_tokens: aLoRA"],
  [`train --model ${TINY} --data one.json --adapter alora --output run`, "alora_invocation_tokens: aLoRA"],
  [`merge --model ${TINY} --adapter alora --output merged`, "alora_invocation_tokens: aLoRA"],
  ["train --config utf16.yaml", "utf16.yaml isn't UTF-8 text."],
  ["train --config alias.yaml", "alias.yaml: Unresolved alias"],
  ["train --config folder", "folder cannot be read: it is a folder."],
])("%s", (line, message) => {
  const { code, stdout, stderr } = lorafit(line.split(" "), { cwd: folder });
  expect(code).toBeGreaterThan(0);
  expect(stdout).toBe("");
  expect(stderr).toContain(message);
  expect(stderr).not.toMatch(/^ {4}at |defect of lorafit/m);
});

it.each<[string, string]>([
  [
    `preview --image ${golden("hd_pixels/a_grad_500x311.in.png")} --out full`,
    "full/a_grad_500x311.in.png cannot be written: EFBIG",
  ],
  ["pages --output pages --count 1 --width 512 --height 512", "pages cannot be written: EFBIG"],
])("on a disk that takes no more: %s", (line, message) => {
  const stderr = withoutRoom(line.split(" "));
  expect(stderr).toContain(message);
  expect(stderr).not.toMatch(/^ {4}at |defect of lorafit/m);
  expect(readdirSync(folder).filter((name) => name.startsWith("."))).toEqual([]);
});

/** Runs a command that may write at most 4 KiB into each file. */
function withoutRoom(args: string[]): string {
  const limited = ["-c", 'ulimit -f 4; exec "$0" "$@"', process.execPath, PROGRAM, ...args];
  return spawnSync("bash", limited, { cwd: folder, encoding: "utf8" }).stderr;
}
