import {
  copyFileSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { homedir, tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, describe, expect, it } from "vitest";
import { golden } from "../../tests/helpers/shared.ts";
import { pickled, torchZip } from "../../tests/helpers/torchFile.ts";
import { UserError } from "../errors.ts";
import { zeros } from "../torch/create.ts";
import { memoryStats } from "../torch/device.ts";
import { scope } from "../torch/tensor.ts";
import { checkTensors } from "./check.ts";
import { cacheFolder, findSnapshot, isRepositoryName } from "./download/cache.ts";
import { openSafetensors, writeSafetensors } from "./files/safetensors.ts";
import { openModelFolder, resolveModel } from "./folder.ts";

const root = mkdtempSync(join(tmpdir(), "folder-"));
const environment = { ...process.env };
afterEach(() => {
  process.env = { ...environment };
});
afterAll(() => rmSync(root, { recursive: true }));

/** A folder with these files; tensors are float32 zeros by name and shape. */
function folderOf(files: Record<string, string | Buffer | Record<string, number[]>>): string {
  const folder = mkdtempSync(join(root, "model-"));
  for (const [name, content] of Object.entries(files)) {
    const path = join(folder, name);
    if (typeof content === "string" || Buffer.isBuffer(content)) writeFileSync(path, content);
    else
      scope(() =>
        writeSafetensors(
          path,
          Object.entries(content).map(([key, shape]) => [key, zeros(shape)]),
        ),
      );
  }
  return folder;
}

/** Writes the checkpoint of a folder again, shard by shard, as torch.save does; returns the new folder. */
function inTorchShards(source: string): string {
  const folder = mkdtempSync(join(root, "bins-"));
  const { weight_map: shardOf } = JSON.parse(readFileSync(join(source, INDEX), "utf8")) as {
    weight_map: Record<string, string>;
  };
  const torchName = (shard: string): string =>
    shard.replace(/^model-(.*)\.safetensors$/, "pytorch_model-$1.bin");
  for (const shard of new Set(Object.values(shardOf))) {
    const weights = openSafetensors(join(source, shard));
    const storages: Record<string, Uint8Array> = {};
    const tensors: Record<string, Buffer> = {};
    for (const [key, name] of weights.names.entries()) {
      const { shape, dtype } = weights.entry(name);
      expect(dtype, name).toBe("float32");
      scope(() => {
        storages[key] = weights.tensor(name).toBytes();
      });
      const elements = shape.reduce((product, extent) => product * extent, 1);
      tensors[name] = pickled.tensor(pickled.storage("FloatStorage", String(key), elements), { shape });
    }
    weights.close();
    writeFileSync(join(folder, torchName(shard)), torchZip(pickled.dict(tensors), storages));
  }
  const weightMap = Object.entries(shardOf).map(([name, shard]) => [name, torchName(shard)]);
  writeFileSync(join(folder, "pytorch_model.bin.index.json"), index(Object.fromEntries(weightMap)));
  copyFileSync(join(source, "config.json"), join(folder, "config.json"));
  return folder;
}

const INDEX = "model.safetensors.index.json";
const index = (weightMap: unknown): string => JSON.stringify({ metadata: {}, weight_map: weightMap });

describe("a model folder", () => {
  it("is opened by its index, shards and all", () => {
    const { config, weights } = openModelFolder(golden("tiny"));
    expect(config.hidden_size).toBe(128);
    expect(weights.names.length).toBe(97);
    expect(weights.entry("plora_glb_GN").shape).toEqual([1, 1, 128]);
    weights.close();
  });

  it("may hold the same weights in PyTorch's own shards", () => {
    const folder = inTorchShards(golden("tiny"));
    const [pickles, tensors] = [openModelFolder(folder).weights, openModelFolder(golden("tiny")).weights];
    expect([...pickles.names].sort()).toEqual([...tensors.names].sort());
    for (const name of tensors.names) {
      expect(pickles.entry(name).shape, name).toEqual(tensors.entry(name).shape);
      scope(() => {
        const [pickle, tensor] = [pickles.tensor(name).toBytes(), tensors.tensor(name).toBytes()];
        expect(Buffer.from(pickle).equals(Buffer.from(tensor)), name).toBe(true);
      });
    }
    pickles.close();
    tensors.close();
  });

  it("prefers safetensors to pickles, and one file to shards", () => {
    const bin = torchZip(
      pickled.dict({ b: pickled.tensor(pickled.storage("FloatStorage", "0", 1), { shape: [1] }) }),
      { "0": Buffer.alloc(4) },
    );
    const both = folderOf({ "config.json": "{}", "model.safetensors": { a: [1] }, "pytorch_model.bin": bin });
    expect(openModelFolder(both).weights.names).toEqual(["a"]);
    const alone = folderOf({ "config.json": "{}", "pytorch_model.bin": bin });
    expect(openModelFolder(alone).weights.names).toEqual(["b"]);
  });

  // biome-ignore format: a table
  const FAULTS: [claim: string, files: Parameters<typeof folderOf>[0], message: RegExp][] = [
    ["without config.json",              { "model.safetensors": { a: [1] } },                              /is not a model folder: it has no config.json/],
    ["with a config.json that is cut off", { "config.json": '{"hidden', "model.safetensors": { a: [1] } }, /config.json is not a JSON object/],
    ["with a config.json that is a list", { "config.json": "[]", "model.safetensors": { a: [1] } },        /config.json is not a JSON object/],
    ["without weights",                  { "config.json": "{}" },                                          /has no weights: none of model.safetensors, .*pytorch_model.bin/],
    ["without a shard",                  { "config.json": "{}", "1.safetensors": { a: [1] }, [INDEX]: index({ a: "1.safetensors", b: "2.safetensors" }) }, /1 of 2 shards are missing:\n {2}2.safetensors/],
    ["with an index that is no JSON",    { "config.json": "{}", [INDEX]: "{" },                            /index.json is not a JSON object/],
    ["with an index without a table",    { "config.json": "{}", [INDEX]: "{}" },                           /its weight_map is not a table/],
    ["with an empty index",              { "config.json": "{}", [INDEX]: index({}) },                      /its weight_map is not a table/],
    ["with an index of numbers",         { "config.json": "{}", [INDEX]: index({ a: 1 }) },                /its weight_map is not a table/],
    ["whose index leads out of it",      { "config.json": "{}", [INDEX]: index({ a: "../../etc/passwd" }) }, /its weight_map is not a table from tensors to files of this folder/],
    ["whose shard lacks a tensor",       { "config.json": "{}", "1.safetensors": { a: [1] }, [INDEX]: index({ a: "1.safetensors", b: "1.safetensors" }) }, /1.safetensors: it has no tensor "b", though/],
    ["whose shard has one too many",     { "config.json": "{}", "1.safetensors": { a: [1], b: [1] }, [INDEX]: index({ a: "1.safetensors" }) }, /does not say that it has tensor "b"/],
    ["whose second shard is cut off",    { "config.json": "{}", "1.safetensors": { a: [1] }, "2.safetensors": Buffer.alloc(9, 1), [INDEX]: index({ a: "1.safetensors", b: "2.safetensors" }) }, /2.safetensors: it says that its header/],
    ["whose shard of pickles is code",   { "config.json": "{}", "1.bin": torchZip(pickled.global("os", "system")), "pytorch_model.bin.index.json": index({ a: "1.bin" }) }, /1.bin: its pickle asks for "os.system"/],
  ];
  it.each(FAULTS)("%s is refused before a weight is loaded", (_, files, message) => {
    const folder = folderOf(files);
    const before = memoryStats("cpu").count;
    expect(() => openModelFolder(folder)).toThrow(UserError);
    expect(() => openModelFolder(folder)).toThrow(message);
    expect(memoryStats("cpu").count).toBe(before);
  });
});

describe("the tensors of a checkpoint", () => {
  const path = join(root, "check.safetensors");
  const check = (
    have: Record<string, number[]>,
    want: Record<string, number[]>,
    optional: string[] = [],
  ): void => {
    scope(() =>
      writeSafetensors(
        path,
        Object.entries(have).map(([name, shape]) => [name, zeros(shape)]),
      ),
    );
    checkTensors(openSafetensors(path), new Map(Object.entries(want)), { optional });
  };

  it("pass where names and shapes agree, with or without the optional ones", () => {
    check({ a: [2, 3], b: [] }, { a: [2, 3], b: [] }, ["c"]);
    check({ a: [2, 3], c: [9] }, { a: [2, 3] }, ["c"]);
  });

  it("are refused in one error that lists all that is missing, unexpected and of another shape", () => {
    const wrong = (): void =>
      check({ a: [3, 2], extra: [1], fine: [1] }, { a: [2, 3], gone: [1], fine: [1] });
    expect(wrong).toThrow(UserError);
    expect(wrong).toThrow(
      `${path}: its tensors are not those of the model.\n` +
        "  1 missing:\n    gone\n  1 of another shape:\n    a: [3, 2] instead of [2, 3]\n  1 not part of the model:\n    extra",
    );
  });

  it("are told by the first few where there are many", () => {
    const many = Object.fromEntries(Array.from({ length: 30 }, (_, at) => [`w${at}`, [1]]));
    expect(() => check({}, many)).toThrow(/30 missing:\n(.*\n){8} {4}and 22 more$/);
  });
});

describe("the cache of downloads", () => {
  const COMMIT = "0123456789abcdef0123456789abcdef01234567";

  /** A cache as huggingface_hub lays it out: files are links to blobs. */
  function downloaded(cache: string, repository: string): string {
    const folder = join(cache, `models--${repository.replace("/", "--")}`);
    const snapshot = join(folder, "snapshots", COMMIT);
    for (const part of ["blobs", "refs"]) mkdirSync(join(folder, part), { recursive: true });
    mkdirSync(snapshot, { recursive: true });
    writeFileSync(join(folder, "refs", "main"), COMMIT);
    for (const [at, name] of ["config.json", "model.safetensors"].entries()) {
      symlinkSync(`../../blobs/${at}`, join(snapshot, name));
    }
    copyFileSync(golden("tiny/config.json"), join(folder, "blobs", "0"));
    scope(() => writeSafetensors(join(folder, "blobs", "1"), [["w", zeros([2])]]));
    return snapshot;
  }

  it("in HF_HOME is where org/name is found, through refs and links", () => {
    process.env.HF_HOME = mkdtempSync(join(root, "home-"));
    delete process.env.HF_HUB_CACHE;
    const snapshot = downloaded(join(process.env.HF_HOME, "hub"), "org/name-7b");
    expect(resolveModel("org/name-7b")).toBe(snapshot);
    const { weights } = openModelFolder(resolveModel("org/name-7b"));
    expect(weights.names).toEqual(["w"]);
    weights.close();
  });

  it("finds a revision by its branch or its commit, and no other", () => {
    const cache = mkdtempSync(join(root, "cache-"));
    const snapshot = downloaded(cache, "org/name");
    expect(findSnapshot(cache, "org/name")).toBe(snapshot);
    expect(findSnapshot(cache, "org/name", COMMIT)).toBe(snapshot);
    expect(findSnapshot(cache, "org/name", "dev")).toBeUndefined();
    expect(findSnapshot(cache, "org/other")).toBeUndefined();
  });

  it("lies where Hugging Face's own tools look for it", () => {
    expect(cacheFolder({ HF_HUB_CACHE: "/a", HF_HOME: "/b" })).toBe("/a");
    expect(cacheFolder({ HF_HOME: "/b" })).toBe("/b/hub");
    expect(cacheFolder({ HF_HOME: "~/b" })).toBe(join(homedir(), "b/hub"));
    expect(cacheFolder({ XDG_CACHE_HOME: "/c" })).toBe("/c/huggingface/hub");
    expect(cacheFolder({})).toBe(join(homedir(), ".cache/huggingface/hub"));
  });

  it("says how to download what it does not have, and what is neither a folder nor a repository", () => {
    process.env.HF_HOME = join(root, "empty");
    delete process.env.HF_HUB_CACHE;
    const absent = (): string => resolveModel("internlm/internlm-xcomposer2-4khd-7b");
    expect(absent).toThrow(`neither a folder nor a downloaded repository in ${join(root, "empty/hub")}`);
    try {
      absent();
    } catch (thrown) {
      expect((thrown as UserError).fix).toContain("lorafit pull internlm/internlm-xcomposer2-4khd-7b");
    }
    expect(() => resolveModel("./nowhere/at/all")).toThrow("There is no folder ./nowhere/at/all");
    const file = join(root, "a-file");
    writeFileSync(file, "");
    expect(() => resolveModel(file)).toThrow(`${file} is a file`);
    expect(resolveModel(root)).toBe(root);
  });

  it("takes no name that leads elsewhere for a repository", () => {
    for (const name of ["../x", "a/..", "a/b/c", "a", "/a/b", "a/b c", ".a/b", ""]) {
      expect(isRepositoryName(name), name).toBe(false);
    }
    expect(isRepositoryName("internlm/internlm-xcomposer2-4khd-7b")).toBe(true);
  });
});

it("the fixture's config is what the reference wrote", () => {
  const { config } = openModelFolder(golden("tiny"));
  expect(config).toEqual(JSON.parse(readFileSync(golden("tiny/config.json"), "utf8")));
});
