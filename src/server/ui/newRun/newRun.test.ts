import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  realpathSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { Hono } from "hono";
import { beforeAll, describe, expect, it } from "vitest";
// biome-ignore lint/style/noRestrictedImports: a test may hold the form to the command line
import { readCommand } from "../../../cli/args/readCommand.ts";
import { trainOptions } from "../../../train/options/options.ts";
import { errorAnswer } from "../../http/httpError.ts";
import type { ApiError } from "../api.ts";
import { checkDraft, flagsOf, givenOptions, runForm } from "./form.ts";
import type { RunDraft, RunStarted, StartState } from "./newRunApi.ts";
import { newRunRoutesOf } from "./newRunRoutes.ts";

const root = realpathSync(mkdtempSync(join(tmpdir(), "newRun-")));
const folder = join(root, "page");

beforeAll(() => {
  mkdirSync(join(folder, "model"), { recursive: true });
  mkdirSync(join(folder, "used"));
  mkdirSync(join(root, "outside"));
  writeFileSync(join(folder, "data.json"), "[]");
  writeFileSync(join(folder, "used", "train.yaml"), "");
  symlinkSync(join(root, "outside"), join(folder, "out"));
});

const FILES = { model: "model", data: ["data.json"], output: "runs/1" };
const draft = (options: RunDraft["options"]): RunDraft => ({ options: { ...FILES, ...options } });

describe("the form", () => {
  it("has every option of `lorafit train` but resume, under the headings of its help", () => {
    const { groups } = runForm(folder);
    const keys = groups.flatMap(({ fields }) => fields.map(({ key }) => key));
    expect(keys).not.toContain("resume");
    for (const key of Object.keys(trainOptions({ model: "-", data: "-" })))
      if (key !== "resume" && key !== "warmup_ratio") expect(keys).toContain(key);
    const fields = groups.flatMap((group) => group.fields);
    const field = (key: string) => fields.find((one) => one.key === key);
    expect(field("model")).toMatchObject({ required: true, kind: "value", value: "FOLDER" });
    expect(field("weight_decay")?.numeric).toBe(true);
    expect(field("lr_schedule")?.choices).toContain("cosine");
    expect(field("shuffle")).toMatchObject({ kind: "switch", preset: "true" });
    expect(field("max_length")?.preset).toBe("4096");
    for (const limit of ["hd_num", "max_pixels"]) expect(field(limit)).not.toHaveProperty("preset");
  });

  it("gives its fields as flags that the command line reads as the same options", () => {
    const raw = givenOptions(
      draft({
        lora_r: "8",
        pack: true,
        shuffle: false,
        base: "nf4",
        memory: "8GiB",
        eval_data: ["-e.json", " "],
        seed: "",
      }),
    );
    expect(raw).toEqual({
      ...FILES,
      lora_r: 8,
      pack: true,
      shuffle: false,
      base: "nf4",
      memory: "8GiB",
      eval_data: ["-e.json"],
    });
    const request = readCommand("train", flagsOf(raw), undefined);
    expect(request.kind === "run" && request.options).toEqual(trainOptions(raw as never));
  });

  it("has no errors if the fields are right, and cautions for the unusual", () => {
    expect(checkDraft(draft({}), folder)).toMatchObject({ errors: {}, cautions: [] });
    expect(checkDraft(draft({}), folder).command).toMatch(
      /train --model=model --data=data\.json --output=runs\/1$/,
    );
    const { cautions } = checkDraft(draft({ lora_r: "4", lora_alpha: "400" }), folder);
    expect(cautions).toEqual([expect.stringMatching(/scales what is learned by 100/)]);
  });

  it.each([
    ["lora_r", "0", "--lora-r takes a whole number, 1 or more (got 0)."],
    ["lora_r", "many", '--lora-r takes a whole number, 1 or more (got the text "many").'],
    ["memory", "24", "--memory 24 is 24 B, too little for anything."],
    ["base", "int3", "--base takes"],
    ["model", "nowhere/at/all", "There is no folder nowhere/at/all."],
    ["model", "", "--model is missing"],
    ["data", "none.json", "none.json cannot be read: there is no such file."],
    ["data", "model", "model cannot be read: it is a folder."],
    ["output", "used", "used holds a run."],
    ["output", "../outside/run", "../outside/run is not below"],
    ["output", "out/run", "out/run is not below"],
    ["output", "/tmp/run", "/tmp/run is not below"],
    ["epochs", "1", "--max-steps cannot be given together with --epochs."],
    ["nonsense", "1", "--nonsense is not an option."],
  ])("says at the field what is wrong: %s %j", (key, value, message) => {
    const more = key === "epochs" ? { max_steps: "2" } : {};
    const { errors } = checkDraft(draft({ [key]: value, ...more }), folder);
    const at = key === "epochs" ? "max_steps" : key;
    expect(errors[at]?.error).toContain(message);
    expect(Object.keys(errors)).toEqual([at]);
  });
});

describe("starting", () => {
  /** Stands for lorafit: prints its arguments and its folder, then waits for a file that lets it end. */
  const program = [
    process.execPath,
    "-e",
    `console.log(JSON.stringify({ args: process.argv.slice(1), cwd: process.cwd() }));
     const fs = require("node:fs");
     const timer = setInterval(() => { if (fs.existsSync("end")) { clearInterval(timer); process.exitCode = 3; } }, 20);`,
  ];

  function server(): Hono {
    const app = new Hono();
    app.onError((thrown, of) => errorAnswer(thrown, of, (defect) => Promise.reject(defect)));
    newRunRoutesOf(program)(app, { folder, note: () => {} });
    return app;
  }

  const post = (app: Hono, route: string, body: object) =>
    app.request(`/api/newRun/${route}`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify(body),
    });

  it("runs train in a process group of its own, in FOLDER, with its log in the output folder", async () => {
    const app = server();
    const response = await post(app, "start", draft({ output: "runs/a b", lora_r: "8" }));
    expect(response.status).toBe(200);
    const { path, pid } = (await response.json()) as RunStarted;
    expect(path).toBe("runs/a b");
    const log = join(folder, path, "train.log");
    while (!readFileSync(log, "utf8").includes("\n")) await sleep(20);
    const output = join(folder, "runs/a b");
    expect(JSON.parse(readFileSync(log, "utf8"))).toEqual({
      args: ["train", "--model=model", "--data=data.json", `--output=${output}`, "--lora-r=8"],
      cwd: folder,
    });
    const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
    expect(stat.slice(stat.lastIndexOf(")") + 2).split(" ")[2]).toBe(String(pid)); // its group
    const state = async () =>
      (await (await app.request("/api/newRun/started?path=runs/a%20b")).json()) as StartState;
    expect(await state()).toMatchObject({ state: "running" });
    writeFileSync(join(folder, "end"), "");
    for (;;) {
      const now = await state();
      if (now.state === "ended") {
        expect(now).toMatchObject({ exitCode: 3, log: expect.stringContaining("--lora-r=8") });
        break;
      }
      await sleep(20);
    }
  });

  it("starts nothing if a field is wrong, and says all that is", async () => {
    const response = await post(server(), "start", draft({ output: "runs/no", lora_r: "x", base: "y" }));
    expect(response.status).toBe(400);
    const { error } = (await response.json()) as ApiError;
    expect(error).toContain("--lora-r takes");
    expect(error).toContain("--base takes");
    expect(existsSync(join(folder, "runs/no"))).toBe(false);
  });

  it("does not write through a link in the log's place", async () => {
    mkdirSync(join(folder, "trap"));
    symlinkSync(join(root, "outside", "target"), join(folder, "trap", "train.log"));
    const response = await post(server(), "start", draft({ output: "trap" }));
    expect(response.status).toBe(400);
    expect(existsSync(join(root, "outside", "target"))).toBe(false);
  });

  it("does not know runs that it has not started", async () => {
    expect((await server().request("/api/newRun/started?path=runs/zzz")).status).toBe(404);
  });
});

it("a new run cannot be made to continue another, which could lie outside of the folder", () => {
  for (const resume of ["../other", true]) {
    const { errors } = checkDraft({ options: { resume } }, tmpdir());
    expect(errors.resume?.error).toBe("--resume is no option of a new run.");
  }
});
