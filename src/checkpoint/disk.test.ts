import { mkdtempSync, rmSync } from "node:fs";
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
