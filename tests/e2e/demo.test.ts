import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { lorafit } from "./lorafit.ts";

const folder = mkdtempSync(join(tmpdir(), "demo-"));
afterAll(() => rmSync(folder, { recursive: true }));

describe("lorafit demo", () => {
  it("refuses a model that has no tiny form, and makes nothing", () => {
    const out = join(folder, "none");
    const { code, stderr } = lorafit(["demo", "--model", "llama", "--output", out]);
    expect(code).toBe(2);
    expect(stderr).toContain("--model llama: there is no tiny model of that name.");
    expect(existsSync(out)).toBe(false);
  });

  it("refuses a folder that is a file", () => {
    const out = join(folder, "file");
    writeFileSync(out, "");
    const { code, stderr } = lorafit(["demo", "--output", out]);
    expect(code).toBe(1);
    expect(stderr).toContain(`${out} is a file, and should be a folder.`);
  });

  it("never removes what no demo has written", () => {
    const out = join(folder, "mine");
    mkdirSync(join(out, "run"), { recursive: true });
    writeFileSync(join(out, "thesis.txt"), "years of work");
    const { code, stderr } = lorafit(["demo", "--output", out]);
    expect(code).toBe(1);
    expect(stderr).toContain(`${out} holds thesis.txt, which no demo has written.`);
    expect(readdirSync(out)).toEqual(["run", "thesis.txt"]);
  });
});
