import { mkdirSync, mkdtempSync, readdirSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, it, onTestFinished } from "vitest";
import { UserError } from "../errors.ts";
import { openAsideFolder, requireSpace } from "./disk.ts";

it("says beforehand that a disk has too little room, also for a folder that is not there yet", () => {
  const root = mkdtempSync(join(tmpdir(), "disk-"));
  onTestFinished(() => rmSync(root, { recursive: true }));
  const path = join(root, "not", "there", "yet");
  expect(() => requireSpace(path, 1)).not.toThrow();
  expect(() => requireSpace(path, 2 ** 60)).toThrow(
    /yet takes 1048576.0 TiB, and its disk has [\d.]+ .iB free/,
  );
});

it.runIf(process.platform === "linux")(
  "a folder that takes no folders is an error, and no endless loop",
  () => {
    expect(() => openAsideFolder("/proc/lorafit")).toThrow(UserError);
  },
);

it("an empty folder is filled and stays the same one, for whoever works in it", () => {
  const root = mkdtempSync(join(tmpdir(), "disk-"));
  onTestFinished(() => rmSync(root, { recursive: true }));
  const path = join(root, "here");
  mkdirSync(path);
  const { ino } = statSync(path);
  const aside = openAsideFolder(path);
  writeFileSync(join(aside.folder, "file"), "text");
  expect(readdirSync(path)).toEqual([]);
  aside.commit();
  aside.discard();
  expect(statSync(path).ino).toBe(ino);
  expect(readdirSync(root)).toEqual(["here"]);
  expect(readdirSync(path)).toEqual(["file"]);
});
