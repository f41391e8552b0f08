/**
 * Whatever a file contains, the output of a command has no control character, no direction override, and no
 * very long name.
 */
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, it } from "vitest";
import { golden } from "../helpers/shared.ts";
import { lorafit, type Run } from "./lorafit.ts";

/** Sets a window title, clears the screen, reverses the direction of the text that follows. */
const HOSTILE = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202egpj\r\x7f";
/** The hostile text, followed by a picture as base64. */
const LONG = `${HOSTILE}${"QUJD".repeat(350_000)}`;
/** A line of steps.jsonl. */
const STEP =
  '{"step":1,"loss":4,"gradNorm":1,"lr":1,"tokens":1,"tokensPerSecond":1,"peakBytes":1,"stepMs":1,"dataWaitRatio":0,"epoch":0}\n';
const STEERING = /(?![\n\t])[\p{Cc}\p{Bidi_Control}\u2028\u2029]/u;

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "raw-"));
  lorafit(
    "tiny --output tiny --hidden 64 --layers 1 --heads 2 --kv-heads 1 --ffn 64 --vision-layers 1".split(" "),
    { cwd: folder },
  );
});
afterAll(() => rmSync(folder, { recursive: true }));

const at = (name: string): string => join(folder, name);
const conversation = (from: string, value: string) => ({
  conversations: [
    { from: "user", value: "a" },
    { from, value },
  ],
});
const write = (name: string, value: unknown): void => {
  writeFileSync(at(name), typeof value === "string" ? value : JSON.stringify(value));
};
const edit = (name: string, change: (json: Record<string, unknown>) => void): void => {
  const json = JSON.parse(readFileSync(at(name), "utf8"));
  change(json);
  write(name, json);
};

interface HostileFile {
  /** Writes the files, with the text in one place. */
  make: (text: string) => void;
  line: string;
  /** Whether the command may also accept the text silently. */
  mayPass?: boolean;
}

/** The places in files from which messages take names. */
const HOSTILE_FILES: Record<string, HostileFile> = {
  "a speaker": {
    make: (text) => write("data.json", [conversation(text, "b")]),
    line: "validate --model tiny --data data.json",
  },
  "a picture's path": {
    make: (text) => write("data.json", [{ ...conversation("assistant", "b"), image: text }]),
    line: "validate --model tiny --data data.json",
  },
  "keys of a record": {
    make: (text) => write("data.json", [{ [text]: 1 }]),
    line: "validate --model tiny --data data.json",
  },
  "a picture under an unknown key": {
    make: (text) => write("data.json", [{ ...conversation("assistant", "<image>b"), [text]: text }]),
    line: "validate --model tiny --data data.json",
    mayPass: true,
  },
  "a line of data.txt": {
    make: (text) => write("data.txt", `${text}.json 1`),
    line: "validate --model tiny --data data.txt",
  },
  "broken JSON": {
    make: (text) => write("data.json", `[{"a": "${text}", b`),
    line: "validate --model tiny --data data.json",
  },
  "a key of a configuration": {
    make: (text) => write("train.yaml", `${JSON.stringify(text)}: 1\n`),
    line: "train --config train.yaml",
  },
  "a value of a configuration": {
    make: (text) => write("train.yaml", `model: tiny\ndata: d\nlora_r: ${JSON.stringify(text)}\n`),
    line: "train --config train.yaml",
  },
  "broken YAML": {
    make: (text) => write("train.yaml", `model: *${text}\n`),
    line: "train --config train.yaml",
  },
  "a base model's kind": {
    make: (text) => {
      cpSync(at("tiny"), at("other"), { recursive: true });
      edit("other/config.json", (config) =>
        Object.assign(config, { model_type: text, architectures: [text] }),
      );
      edit("other/config.json", (config) => Object.assign(config, { rope_scaling: { type: text } }));
    },
    line: "eval --model other --data ok.json",
    mayPass: true,
  },
  "a shard": {
    make: (text) => {
      cpSync(golden("tiny"), at("sharded"), { recursive: true });
      edit("sharded/model.safetensors.index.json", ({ weight_map }) => {
        for (const name of Object.keys(weight_map as object))
          (weight_map as Record<string, string>)[name] = text;
      });
    },
    line: "merge --model sharded --adapter adapter --output merged",
  },
  "a tensor of a model": {
    make: (text) => {
      cpSync(golden("tiny"), at("sharded"), { recursive: true });
      edit("sharded/model.safetensors.index.json", ({ weight_map }) =>
        Object.assign(weight_map as object, { [text]: "model-00001-of-00002.safetensors" }),
      );
    },
    line: "merge --model sharded --adapter adapter --output merged",
  },
  "a tensor's type": {
    make: (text) => {
      mkdirSync(at("typed"), { recursive: true });
      cpSync(at("tiny"), at("typed"), { recursive: true });
      writeFileSync(
        at("typed/model.safetensors"),
        safetensors({ [text]: { dtype: text, shape: [1], data_offsets: [0, 4] } }),
      );
    },
    line: "eval --model typed --data ok.json",
  },
  "modules of an adapter": {
    make: (text) => {
      adapter();
      edit("adapter/adapter_config.json", (config) =>
        Object.assign(config, { target_modules: [text], peft_type: text }),
      );
    },
    line: "eval --model tiny --adapter adapter --data ok.json",
  },
  "a tensor of an adapter": {
    make: (text) => {
      adapter();
      const name = `base_model.model.${text}.lora_A.weight`;
      writeFileSync(
        at("adapter/adapter_model.safetensors"),
        safetensors({ [name]: { dtype: "F32", shape: [1], data_offsets: [0, 4] } }),
      );
    },
    line: "eval --model tiny --adapter adapter --data ok.json",
  },
  "an evaluation to compare": {
    make: (text) => {
      write("steps.jsonl", STEP);
      write("train.yaml", `model: ${JSON.stringify(text)}\n`);
      write("scores.jsonl", text);
    },
    line: "report . --evals scores.jsonl",
  },
};

function adapter(): void {
  cpSync(golden("tiny_lora"), at("adapter"), { recursive: true });
}

function safetensors(header: object): Buffer {
  const json = Buffer.from(JSON.stringify(header));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(json.length));
  return Buffer.concat([length, json, Buffer.alloc(4)]);
}

function expectHarmless({ stdout, stderr }: Run): void {
  expect((stdout + stderr).match(STEERING)).toBe(null);
}

it.each(Object.entries(HOSTILE_FILES))("%s", (_, { make, line, mayPass = false }) => {
  write("ok.json", [conversation("assistant", "b")]);
  adapter();
  make(LONG);
  const run = lorafit(line.split(" "), { cwd: folder });
  if (!mayPass) expect(run.code).toBeGreaterThan(0);
  expectHarmless(run);
  expect(run.stderr).not.toMatch(/^ {4}at |defect of lorafit/m);
  expect(run.stderr.length).toBeLessThan(6000);
});

it("sample texts are escaped in preview, on the terminal and in its page", () => {
  write("data.json", [conversation("assistant", HOSTILE)]);
  const run = lorafit("preview --model tiny --data data.json".split(" "), { cwd: folder });
  expect(run.code).toBe(0);
  expectHarmless(run);
  expect(run.stdout).toContain("\\u001b[2J");
  const page = readFileSync(at("preview/samples.html"), "utf8");
  expect(page.match(STEERING)).toBe(null);
  expect(page).toContain("\\u001b[2J");
});

it("a run's report shows names escaped", () => {
  write("steps.jsonl", STEP);
  write("train.yaml", `model: ${JSON.stringify(HOSTILE)}\nlearning_rate: 1\n`);
  expectHarmless(lorafit(["report", "."], { cwd: folder }));
  expect(readFileSync(at("report.html"), "utf8").match(STEERING)).toBe(null);
});
