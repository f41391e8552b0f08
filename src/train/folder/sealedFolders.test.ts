import { mkdtempSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { openAsideFolder } from "../../checkpoint/files/disk.ts";
import { faultOf, mendFolders, removeFolder, writeFolder } from "./sealedFolders.ts";

let parent: string;
beforeEach(() => {
  parent = mkdtempSync(join(tmpdir(), "folders-"));
});
afterEach(() => rmSync(parent, { recursive: true }));

const put = (text: string) => (folder: string) => writeFileSync(join(folder, "weights"), text);
const write = (name: string, text: string) => writeFolder(join(parent, name), put(text), { sealed: false });
const content = (name: string) => readFileSync(join(parent, name, "weights"), "utf8");

describe("writing a folder", () => {
  it("replaces the one before and leaves nothing else", async () => {
    await write("adapter", "one");
    await write("adapter", "two");
    expect(content("adapter")).toBe("two");
    expect(readdirSync(parent)).toEqual(["adapter"]);
  });

  it("changes nothing when writing fails", async () => {
    await write("adapter", "one");
    const failing = (folder: string) => {
      put("half")(folder);
      throw new Error("the disk broke");
    };
    await expect(writeFolder(join(parent, "adapter"), failing, { sealed: false })).rejects.toThrow(
      "the disk broke",
    );
    expect(content("adapter")).toBe("one");
    expect(readdirSync(parent)).toEqual(["adapter"]);
  });
});

describe("removing a folder", () => {
  it("leaves nothing", async () => {
    await write("adapter", "one");
    await removeFolder(join(parent, "adapter"));
    expect(readdirSync(parent)).toEqual([]);
  });
});

describe("mending", () => {
  it("removes what was half written, and keeps what it was to replace", async () => {
    await write("best", "old");
    put("half")(openAsideFolder(join(parent, "best")).folder);
    await mendFolders(parent);
    expect(readdirSync(parent)).toEqual(["best"]);
    expect(content("best")).toBe("old");
  });

  it("brings back a folder that was moved away for a successor that did not come", async () => {
    await write("best", "old");
    put("new")(openAsideFolder(join(parent, "best")).folder);
    renameSync(join(parent, "best"), join(parent, ".replaced-best"));
    await mendFolders(parent);
    expect(readdirSync(parent)).toEqual(["best"]);
    expect(content("best")).toBe("old");
  });

  it("keeps the successor where both are there", async () => {
    await write("best", "new");
    await write(".replaced-best", "old");
    await mendFolders(parent);
    expect(readdirSync(parent)).toEqual(["best"]);
    expect(content("best")).toBe("new");
  });

  it("finds nothing to do in a folder that does not exist", async () => {
    await expect(mendFolders(join(parent, "none"))).resolves.toBeUndefined();
  });
});

describe("the seal", () => {
  const sealed = async () => {
    await writeFolder(join(parent, "checkpoint"), put("weights"), { sealed: true });
    return join(parent, "checkpoint");
  };

  it("holds for an untouched folder", async () => {
    expect(await faultOf(await sealed())).toBeUndefined();
  });

  it.each<[string, (folder: string) => void, RegExp]>([
    ["a changed byte", (folder) => writeFileSync(join(folder, "weights"), "weightz"), /weights has changed/],
    ["a truncated file", (folder) => writeFileSync(join(folder, "weights"), "wei"), /3 bytes of 7/],
    ["a missing file", (folder) => rmSync(join(folder, "weights")), /weights is missing/],
    ["a missing seal", (folder) => rmSync(join(folder, "seal.json")), /seal.json is missing/],
    ["a truncated seal", (folder) => writeFileSync(join(folder, "seal.json"), "{"), /unreadable/],
  ])("tells %s", async (_, damage, words) => {
    const folder = await sealed();
    damage(folder);
    expect(await faultOf(folder)).toMatch(words);
  });
});
