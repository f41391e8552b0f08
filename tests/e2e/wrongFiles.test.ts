/** Files and folders that are not what a command takes: each is told in a line, with what to do, and none ends in a stack. */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, it } from "vitest";
import { golden } from "../shared.ts";
import { lorafit } from "./lorafit.ts";

const TINY = golden("tiny");

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "wrong-"));
  mkdirSync(join(folder, "folder"));
  for (const name of ["set", "taken"]) mkdirSync(join(folder, name));
  writeFileSync(join(folder, "set/data.txt"), "data.json 1");
  mkdirSync(join(folder, "taken/g2_img_1x1.img0.png"));
  writeFileSync(join(folder, "empty"), "");
  writeFileSync(join(folder, "latin.json"), Buffer.from('[{"id":"caf\xe9"}]', "latin1"));
  writeFileSync(join(folder, "steps.jsonl"), '{"step":1,"loss":4}\n');
  writeFileSync(join(folder, "train.yaml"), "model: tiny\n");
});
afterAll(() => rmSync(folder, { recursive: true }));

it.each<[string, string]>([
  [`validate --model ${TINY} --data none.json`, "none.json can't be read: there is no such file."],
  [`validate --model ${TINY} --data folder`, "folder can't be read: it is a folder."],
  [`validate --model ${TINY} --data latin.json`, "latin.json isn't UTF-8 text."],
  ["preview --image empty", "empty: this picture can't be read"],
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
  [`eval --model ${TINY} --data latin.json --memory 12`, "Write the unit too, as in --memory 12GiB."],
  ["train --config folder", "folder cannot be read: it is a folder."],
])("%s", (line, message) => {
  const { code, stdout, stderr } = lorafit(line.split(" "), { cwd: folder });
  expect(code).toBeGreaterThan(0);
  expect(stdout).toBe("");
  expect(stderr).toContain(message);
  expect(stderr).not.toMatch(/^ {4}at |defect of lorafit/m);
});
