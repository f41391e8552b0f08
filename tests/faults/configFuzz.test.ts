/**
 * Configurations with random values: each folder is refused with a UserError, or read as the model that its
 * weights are.
 */
import { randomInt } from "node:crypto";
import { copyFileSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, test } from "vitest";
import { readAdapter } from "../../src/checkpoint/adapter/peft.ts";
import { openModelFolder } from "../../src/checkpoint/folder.ts";
import { randomAt } from "../../src/data/stream/random.ts";
import { UserError } from "../../src/errors.ts";
import { readModelConfig } from "../../src/models/families.ts";
import { TINY, writeTinyCheckpoint } from "../../src/models/xcomposer2/tiny.ts";
import { scope } from "../../src/torch/tensor.ts";
import { golden } from "../helpers/shared.ts";

const SEEDS = [1, 2, randomInt(2 ** 31)];
const MUTANTS = 200; // per folder and seed

const root = mkdtempSync(join(tmpdir(), "config-fuzz-"));
afterAll(() => rmSync(root, { recursive: true }));

type Json = Record<string, unknown>;

// biome-ignore format: a list
const NASTY = [null, true, false, 0, -1, 1, 1.5, 2, 7, 1e9, 1e15, 2 ** 53, 1e308, "", "x", "dynamic", "yarn", "__proto__", [], {}, [1], [null], [[]], { a: 1 }, { type: "linear", factor: 2 }, { rope_type: "dynamic", factor: 1e300, rope_theta: 1 }, { "(": 1 }, { "(a|b)*": 2 }, { ".*": 3 }, { wo: -1 }, { wo: "1" }];

// biome-ignore format: a list
const EXTRA_FIELDS = ["text_config", "rope_parameters", "rope_scaling", "head_dim", "dtype", "quantization_config", "use_dora", "trainable_token_indices", "target_parameters", "rank_pattern", "alpha_pattern", "peft_version", "__proto__", "constructor"];

/** Changes one to three values of one of a folder's JSON files, at any depth. */
function damage(files: Record<string, Json>, pick: <T>(items: readonly T[]) => T): Record<string, Json> {
  const copy = structuredClone(files);
  for (let edits = pick([1, 1, 2, 3]); edits > 0; edits--) {
    let at = pick(Object.values(copy));
    let key = pick([...Object.keys(at), pick(EXTRA_FIELDS)]);
    for (let inner = at[key]; isObject(inner) && Object.keys(inner).length > 0; inner = at[key]) {
      if (pick([true, false])) break;
      at = inner;
      key = pick(Object.keys(at));
    }
    at[key] = pick(NASTY);
  }
  return copy;
}

function isObject(value: unknown): value is Json {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function jsonFilesOf(folder: string): Record<string, Json> {
  const names = readdirSync(folder).filter((name) => name.endsWith(".json"));
  return Object.fromEntries(
    names.map((name) => [name, JSON.parse(readFileSync(join(folder, name), "utf8")) as Json]),
  );
}

/** Returns how many damaged folders were read; throws at the first that `read` neither reads nor refuses. */
function fuzz(folder: string, seed: number, read: () => void): number {
  const files = jsonFilesOf(folder);
  let rolls = 0;
  const pick = <T>(items: readonly T[]): T =>
    items[Math.floor(randomAt(seed, 0, rolls++) * items.length)] as T;
  let accepted = 0;
  for (let index = 0; index < MUTANTS; index++) {
    const damaged = damage(files, pick);
    for (const [name, json] of Object.entries(damaged))
      writeFileSync(join(folder, name), JSON.stringify(json));
    try {
      read();
      accepted++;
    } catch (thrown) {
      if (thrown instanceof UserError) continue;
      throw new Error(`seed ${seed}, mutant ${index}: ${thrown}\n${JSON.stringify(damaged)}`, {
        cause: thrown,
      });
    }
  }
  for (const [name, json] of Object.entries(files)) writeFileSync(join(folder, name), JSON.stringify(json));
  return accepted;
}

test.each(SEEDS)("of models, seed %d", (seed) => {
  const folder = join(root, `model-${seed}`);
  writeTinyCheckpoint(folder, {
    ...TINY,
    hidden: 64,
    heads: 4,
    layers: 2,
    ffn: 96,
    vocab: 128,
    shardBytes: 2 ** 17,
  });
  const accepted = fuzz(folder, seed, () => {
    const opened = openModelFolder(folder);
    try {
      const { hidden, layers, heads, kvHeads, headDim, ropeTheta, maxPositions, eosIds } =
        readModelConfig(opened);
      expect([hidden, layers, heads * headDim, headDim % 2, heads % kvHeads]).toEqual([64, 2, 64, 0, 0]);
      expect([ropeTheta > 0, maxPositions > 0, eosIds.length > 0]).toEqual([true, true, true]);
    } finally {
      opened.weights.close();
    }
  });
  expect(accepted).toBeGreaterThan(0);
  expect(accepted).toBeLessThan(MUTANTS);
});

test.each(SEEDS)("of adapters, seed %d", (seed) => {
  const folder = mkdtempSync(join(root, "adapter-"));
  for (const name of readdirSync(golden("tiny_lora")))
    copyFileSync(golden(`tiny_lora/${name}`), join(folder, name));
  const accepted = fuzz(folder, seed, () =>
    scope(() => {
      for (const { a, b, scale } of readAdapter(folder).modules.values()) {
        expect([a.shape[0], b.shape[1], Number.isFinite(scale)]).toEqual([4, 4, true]);
      }
    }),
  );
  expect(accepted).toBeGreaterThan(0);
  expect(accepted).toBeLessThan(MUTANTS);
});
