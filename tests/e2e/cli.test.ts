import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { lorafit } from "./lorafit.ts";

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "cli-"));
});
afterAll(() => rmSync(folder, { recursive: true }));

describe("help", () => {
  it("lists the commands", () => {
    const { code, stdout } = lorafit(["--help"]);
    expect(code).toBe(0);
    for (const name of [
      "train",
      "eval",
      "generate",
      "chat",
      "merge",
      "preview",
      "tokenize",
      "setup",
      "doctor",
    ]) {
      expect(stdout).toMatch(new RegExp(`^  ${name} `, "m"));
    }
  });

  it("comes without libtorch", () => {
    expect(lorafit(["--help"], { env: { LORAFIT_LIBTORCH: "/nowhere" } }).code).toBe(0);
  });

  it.each(["train", "eval", "doctor"])("of %s shows its flags", (name) => {
    const { code, stdout } = lorafit([name, "--help"], { env: { LORAFIT_LIBTORCH: "/nowhere" } });
    expect(code).toBe(0);
    expect(stdout).toContain("--json");
    expect(lorafit(["help", name]).stdout).toBe(stdout);
    expect(lorafit(["--help", name]).stdout).toBe(stdout);
  });

  it("tells the version", () => {
    expect(lorafit(["--version"]).stdout).toMatch(/^\d+\.\d+\.\d+\n$/);
  });
});

describe("wrong usage ends with 2 and says what to do", () => {
  it.each<[string[], string]>([
    [[], "Usage: lorafit COMMAND [flags]"],
    [["trian"], 'error: There is no command "trian".\n  Did you mean train?\n'],
    [["zzz"], 'error: There is no command "zzz".\n  npx lorafit --help shows the commands.\n'],
    [["train", "--lora-rr", "8"], "error: There is no flag --lora-rr.\n  Did you mean --lora-r?\n"],
    [
      ["train", "--lora_r", "many", "--model", "m", "--data", "d"],
      'error: --lora_r takes a whole number, 1 or more (got the text "many").\n',
    ],
    [["plan", "--gup", "v100"], "error: There is no flag --gup.\n  Did you mean --gpu?\n"],
    [["plan", "--gpu", "abacus"], "abacus"],
    [["plan", "--solve", "max-length"], "no memory is given"],
    [["preview"], "There is nothing to preview."],
    [["preview", "--image", "a", "--data", "b"], "--image and --data cannot be given together."],
    [["generate", "--model", "m"], "There is nothing to answer."],
    [["report"], "FOLDER is missing"],
    [["train", "--resume", "nowhere"], "There is no run in nowhere"],
    [["eval", "--data", "d"], "error: --model is missing: model folder"],
    [
      ["train", "--model", "m", "--data", "d", "--hd-num", "-1"],
      "error: --hd-num takes a whole number, 1 or more (got -1).\n  The official script's default of -1 resizes",
    ],
  ])("%j", (args, message) => {
    const { code, stdout, stderr } = lorafit(args);
    expect(code).toBe(2);
    expect(stdout).toBe("");
    expect(stderr).toContain(message);
  });

  it("in a configuration, with line and column", () => {
    writeFileSync(join(folder, "train.yaml"), "model: m\ndata: d\nlora_r: 0.5\n");
    const { code, stderr } = lorafit(["train", "--config", "train.yaml"], { cwd: folder });
    expect(code).toBe(2);
    expect(stderr).toBe("error: train.yaml:3:9: lora_r takes a whole number, 1 or more (got 0.5).\n");
  });
});

it("an error of the user's ends with 1, without a stack", () => {
  const { code, stderr } = lorafit(["eval", "--model", "nowhere", "--data", "d"], { cwd: folder });
  expect(code).toBe(1);
  expect(stderr).toMatch(/^error: There is no folder nowhere\.\n {2}Name a folder/);
  expect(stderr).not.toContain("    at ");
});

it("a reader that goes away is no error", async () => {
  const { spawn } = await import("node:child_process");
  const child = spawn("bash", ["-c", `"${process.execPath}" dist/cli/main.js train --help | head -n 1`]);
  let stderr = "";
  child.stderr.on("data", (chunk) => (stderr += chunk));
  const code = await new Promise((done) => child.on("close", done));
  expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
});
