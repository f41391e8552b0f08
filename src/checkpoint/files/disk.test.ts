import { mkdirSync, mkdtempSync, readdirSync, rmSync, statSync, utimesSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, it, onTestFinished } from "vitest";
import { UserError } from "../../errors.ts";
import { leftoversBeside, makeFolder, openAsideFolder, requireSpace, requireWritable } from "./disk.ts";

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

it("tells what killed processes have left beside a path, and nothing that is still written to", () => {
  const root = mkdtempSync(join(tmpdir(), "disk-"));
  onTestFinished(() => rmSync(root, { recursive: true }));
  const [old, busy, own] = ["old", "busy", "own"].map((name) => openAsideFolder(join(root, name)).folder);
  for (const folder of [old, busy, own]) {
    writeFileSync(join(folder!, "file"), "text");
    utimesSync(join(folder!, "file"), 0, 0);
    utimesSync(folder!, 0, 0);
  }
  utimesSync(join(busy!, "file"), new Date(), new Date());
  expect(leftoversBeside(join(root, "own"))).toEqual([old]);
  expect(leftoversBeside(join(root, "not", "there", "yet"))).toEqual([]);
});

it("makes a folder and those above it, and says where a file is in the way", () => {
  const root = mkdtempSync(join(tmpdir(), "disk-"));
  onTestFinished(() => rmSync(root, { recursive: true }));
  makeFolder(join(root, "a", "b"));
  makeFolder(join(root, "a", "b"));
  expect(statSync(join(root, "a", "b")).isDirectory()).toBe(true);
  writeFileSync(join(root, "file"), "");
  for (const path of [join(root, "file"), join(root, "file", "c")])
    expect(() => makeFolder(path)).toThrow(/file is a file, and should be a folder/);
});

it("says before the work that a file can't be written, and leaves nothing there where it can", () => {
  const root = mkdtempSync(join(tmpdir(), "disk-"));
  onTestFinished(() => rmSync(root, { recursive: true }));
  expect(() => requireWritable(root)).toThrow("is a folder, and should be a file");
  expect(() => requireWritable(join(root, "none", "page.html"))).toThrow(
    /page\.html cannot be written: the folder that it should go to is not there\.$/,
  );
  requireWritable(join(root, "page.html"));
  expect(readdirSync(root)).toEqual([]);
});

it.runIf(process.platform === "linux")(
  "a place that refuses folders is an error, and no endless loop",
  () => {
    expect(() => makeFolder("/proc/lorafit/deep")).toThrow(UserError);
  },
);
