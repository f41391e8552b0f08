import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { homedir, tmpdir } from "node:os";
import { join } from "node:path";
import { expect, it } from "vitest";
import { typedPath } from "./chat.ts";

it.each([
  ["page.png", "page.png"],
  ['"my page.png"', "my page.png"],
  ["'my page.png'", "my page.png"],
  ["my\\ page\\'s.png", "my page's.png"],
  ["my page.png", "my page.png"],
  ["~/page.png", join(homedir(), "page.png")],
  ["", ""],
])("the path in %s is %s", (typed, path) => {
  expect(typedPath(typed)).toBe(path);
});

it("a file whose name has a backslash is found as it is", () => {
  const folder = mkdtempSync(join(tmpdir(), "chat-"));
  const file = join(folder, "a\\b.png");
  writeFileSync(file, "");
  expect(typedPath(file)).toBe(file);
  rmSync(folder, { recursive: true });
});
