import { copyFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { afterAll, describe, expect, it } from "vitest";
import { floats, readFixture } from "../../../tests/helpers/fixtures.ts";
import { golden } from "../../../tests/helpers/shared.ts";
import { pickled, torchZip } from "../../../tests/helpers/torchFile.ts";
import { UserError } from "../../errors.ts";
import { fromArray, randn, zeros } from "../../torch/create.ts";
import { liveTensors } from "../../torch/device.ts";
import { scope, type Tensor } from "../../torch/tensor.ts";
import { writeSafetensors } from "../files/safetensors.ts";
import { openModelFolder } from "../folder.ts";
import { PREFIXES } from "./moduleNames.ts";
import { type Adapter, readAdapter, writeAdapter } from "./peft.ts";

const root = mkdtempSync(join(tmpdir(), "peft-"));
afterAll(() => rmSync(root, { recursive: true }));

const KEY = "base_model.model.model.layers.0.attention.wqkv";
const CONFIG = JSON.parse(readFileSync(golden("tiny_lora/adapter_config.json"), "utf8")) as object;

/** A folder with this adapter: changes to the config, and tensors by name. */
function adapterOf(config: object, tensors: Record<string, number[]>): string {
  const folder = mkdtempSync(join(root, "adapter-"));
  writeFileSync(join(folder, "adapter_config.json"), JSON.stringify({ ...CONFIG, r: 2, ...config }));
  const path = join(folder, "adapter_model.safetensors");
  scope(() =>
    writeSafetensors(
      path,
      Object.entries(tensors).map(([name, shape]) => [name, zeros(shape)]),
    ),
  );
  return folder;
}

const longNamed = (name: string): Record<string, number[]> => ({
  [`base_model.model.${name}.lora_A.weight`]: [2, 3],
  [`base_model.model.${name}.lora_B.weight`]: [4, 2],
});

const PAIR = { [`${KEY}.lora_A.weight`]: [2, 3], [`${KEY}.lora_B.weight`]: [4, 2] };

function read<T>(folder: string, body: (adapter: Adapter) => T): T {
  let result: T | undefined;
  scope(() => {
    result = body(readAdapter(folder));
    return undefined;
  });
  return result as T;
}

function faultOf(folder: string): UserError {
  try {
    read(folder, () => undefined);
  } catch (thrown) {
    return thrown as UserError;
  }
  throw new Error("it was read");
}

const modelShapes = (): Map<string, number[]> => {
  const { weights } = openModelFolder(golden("tiny"));
  return new Map(weights.names.map((name) => [name, weights.entry(name).shape]));
};

const values = (x: Tensor): number[] => [...x.toFloat32Array()];

describe("an adapter that PEFT wrote", () => {
  it.each(["tiny_lora", "train/initial_adapter", "train/final_adapter"])(
    "%s is read, fits the model, and comes back the same when written and read again",
    (name) => {
      const before = liveTensors();
      scope(() => {
        const adapter = readAdapter(golden(name), { shapes: modelShapes() });
        const fixture = readFixture(golden(`${name}/adapter_model.safetensors`));
        expect(adapter.modules.size).toBe(15);
        for (const [module, { a, b, scale }] of adapter.modules) {
          const key = `base_model.model.model.${module}`;
          expect(values(a)).toEqual([...floats(fixture, `${key}.lora_A.weight`)]);
          expect(values(b)).toEqual([...floats(fixture, `${key}.lora_B.weight`)]);
          expect(scale).toBe(2);
        }
        const copy = join(root, name.replace("/", "-"));
        writeAdapter(copy, adapter);
        const again = readAdapter(copy, { shapes: modelShapes() });
        expect(again.config).toEqual(adapter.config);
        const written = readFixture(join(copy, "adapter_model.safetensors"));
        expect(Object.keys(written).sort()).toEqual(Object.keys(fixture).sort());
        for (const key of Object.keys(fixture)) expect(written[key]).toEqual(fixture[key]);
      });
      expect(liveTensors()).toBe(before);
    },
  );

  it("has the keys that ours has in its configuration", () => {
    const copy = join(root, "keys");
    scope(() => writeAdapter(copy, readAdapter(golden("tiny_lora"))));
    const ours = JSON.parse(readFileSync(join(copy, "adapter_config.json"), "utf8")) as typeof CONFIG;
    expect(ours).toEqual(CONFIG);
  });

  it("may be adapter_model.bin", () => {
    const folder = mkdtempSync(join(root, "bin-"));
    copyFileSync(golden("tiny_lora/adapter_config.json"), join(folder, "adapter_config.json"));
    const file = pickled.dict({
      [`${KEY}.lora_A.weight`]: pickled.tensor(pickled.storage("FloatStorage", "0", 8), { shape: [4, 2] }),
      [`${KEY}.lora_B.weight`]: pickled.tensor(pickled.storage("HalfStorage", "1", 4), { shape: [1, 4] }),
    });
    const eight = Float32Array.of(1, 2, 3, 4, 5, 6, 7, 8);
    const halves = Uint16Array.of(0x3c00, 0x4000, 0x4200, 0x4400); // 1 2 3 4
    const storages = { "0": new Uint8Array(eight.buffer), "1": new Uint8Array(halves.buffer) };
    writeFileSync(join(folder, "adapter_model.bin"), torchZip(file, storages));
    read(folder, ({ modules }) => {
      const { a, b } = modules.get("layers.0.attention.wqkv")!;
      expect([a.dtype, b.dtype, a.shape, b.shape]).toEqual(["float32", "float32", [4, 2], [1, 4]]);
      expect([...values(a), ...values(b)]).toEqual([...eight, 1, 2, 3, 4]);
    });
  });
});

describe("reading", () => {
  it("takes any target_modules: a list, a regular expression, all-linear, none", () => {
    for (const target of [["wqkv"], ".*attention\\.(wqkv|wo)$", "all-linear", null, "(?P<x>python)"]) {
      const folder = adapterOf({ target_modules: target }, PAIR);
      expect(read(folder, ({ modules }) => [...modules.keys()])).toEqual(["layers.0.attention.wqkv"]);
    }
  });

  it("takes keys with the adapter's name, without prefix, and VeLoRA's buffers, which only training uses", () => {
    const wo = "model.layers.1.attention.wo";
    const folder = adapterOf(
      { velora_config: { num_groups: 64 } },
      {
        [`${KEY}.lora_A.default.weight`]: [2, 3],
        [`${KEY}.lora_B.default.weight`]: [4, 2],
        [`${KEY}.lora_velora_embed`]: [4],
        [`${wo}.lora_A.weight`]: [2, 4],
        [`${wo}.lora_B.weight`]: [3, 2],
      },
    );
    read(folder, ({ modules }) => {
      expect([...modules.keys()].sort()).toEqual(["layers.0.attention.wqkv", "layers.1.attention.wo"]);
    });
  });

  it("takes every field of PEFT's configuration at its neutral value, and those that only describe training", () => {
    const fields = {
      ...{
        auto_mapping: { base_model_class: "X" },
        peft_version: "0.20.0",
        revision: "main",
        task_type: "CAUSAL_LM",
      },
      ...{
        exclude_modules: ["output"],
        layers_to_transform: [0],
        layers_pattern: "layers",
        runtime_config: {},
      },
      ...{ init_lora_weights: "eva", eva_config: { rho: 2 }, corda_config: null, lora_ga_config: null },
      ...{ use_dora: false, lora_bias: false, use_qalora: false, qalora_group_size: 16, bias: "none" },
      ...{
        modules_to_save: null,
        trainable_token_indices: null,
        alora_invocation_tokens: null,
        target_parameters: [],
      },
      ...{
        use_bdlora: null,
        arrow_config: null,
        kasa_config: null,
        monteclora_config: null,
        layer_replication: null,
      },
      ...{
        megatron_config: null,
        megatron_core: "megatron.core",
        loftq_config: {},
        ensure_weight_tying: false,
      },
      ...{ lora_dropout: null, use_rslora: null, a_field_of_tomorrow: null, another: false, empty: {} },
    };
    expect(read(adapterOf(fields, PAIR), ({ modules }) => modules.size)).toBe(1);
  });

  it("scales by alpha over rank, or its root, with patterns that PEFT would match", () => {
    const scale = (config: object): number =>
      read(adapterOf(config, PAIR), ({ modules }) => modules.get("layers.0.attention.wqkv")!.scale);
    expect(scale({ lora_alpha: 6 })).toBe(3);
    expect(scale({ lora_alpha: 6, use_rslora: true })).toBeCloseTo(6 / Math.SQRT2);
    expect(scale({ lora_alpha: 6, alpha_pattern: { "attention.wqkv": 8 } })).toBe(4);
    expect(scale({ lora_alpha: 6, alpha_pattern: { "layers\\.[0-3]\\..*": 8 } })).toBe(4);
    expect(scale({ lora_alpha: 6, alpha_pattern: { wqk: 8 } })).toBe(3);
    expect(scale({ lora_alpha: 6, r: 16, rank_pattern: { wqkv: 2 } })).toBe(3);
    expect(scale({ lora_alpha: 6, alpha_pattern: { "(?P<part>wqkv|wo)": 8 } })).toBe(4);
    expect(scale({ lora_alpha: 6, alpha_pattern: { ".*\\.wq{,1}kv\\Z": 8 } })).toBe(4);
  });

  it("reads alternatives as the PEFT that wrote them did: with brackets around them since 0.15, without before", () => {
    const wo = KEY.replace("wqkv", "wo");
    const second = { [`${wo}.lora_A.weight`]: [2, 3], [`${wo}.lora_B.weight`]: [4, 2] };
    const scales = (config: object, tensors: Record<string, number[]>): number[] =>
      read(adapterOf({ lora_alpha: 6, ...config }, tensors), ({ modules }) =>
        ["wqkv", "wo"].flatMap((name) => modules.get(`layers.0.attention.${name}`)?.scale ?? []),
      );
    const alphas = { alpha_pattern: { "attention.wqkv|attention.wo": 8 } };
    expect(scales({ ...alphas, corda_config: null }, { ...PAIR, ...second })).toEqual([4, 4]);
    expect(scales(alphas, { ...PAIR, ...second })).toEqual([4, 3]); // PEFT 0.10 gives wo the alpha of the configuration
    const ranks = { r: 4, rank_pattern: { "attention.wqkv|attention.wo": 2 } };
    const full = { [`${wo}.lora_A.weight`]: [4, 3], [`${wo}.lora_B.weight`]: [4, 4] };
    expect(scales(ranks, { ...PAIR, ...full })).toEqual([3, 1.5]);
    expect(scales(ranks, { ...PAIR, ...second })).toEqual([3, 3]); // the ranks say which it was
  });

  it.each([
    "(a+)+$",
    "(.*.*)*x",
    "((((a{0,100}){0,100}){0,100}){0,100})",
    "(?:a{0,9}".repeat(10) + "){0,9}".repeat(10),
  ])("is not held up by the pattern %s", (pattern) => {
    const folder = adapterOf({ alpha_pattern: { [pattern]: 8 } }, { ...PAIR, ...longNamed("a".repeat(40)) });
    const before = process.cpuUsage();
    try {
      read(folder, () => undefined);
    } catch (thrown) {
      expect(thrown).toBeInstanceOf(UserError);
    }
    const { user, system } = process.cpuUsage(before);
    expect(user + system).toBeLessThan(5e6); // microseconds of processor time; JavaScript's engine takes years
  });

  // biome-ignore format: a table
  const FAULTS: [claim: string, config: object, tensors: Record<string, number[]>, message: string][] = [
    ["another rank than the configuration's", { r: 4 }, PAIR, "\"layers.0.attention.wqkv\": A [2,3] and B [4,2] instead of [4, 3] and [4, 4]"],
    ["factors of two ranks",  {}, { ...PAIR, [`${KEY}.lora_B.weight`]: [4, 3] },  "instead of [2, 3] and [4, 2]"],
    ["a factor alone",        {}, { [`${KEY}.lora_A.weight`]: [2, 3] },           "\"layers.0.attention.wqkv\": lora_B is missing"],
    ["a factor of one dim",   {}, { ...PAIR, [`${KEY}.lora_A.weight`]: [2] },     "A [2] and B [4,2]"],
    ["a factor twice",        {}, { ...PAIR, [`${KEY}.lora_A.default.weight`]: [2, 3] }, "two tensors for lora_A of \"layers.0.attention.wqkv\""],
    ["no tensors",            {}, {},                                             "it has no LoRA factors"],
    ["ZeRO-3's empty factors", {}, { [`${KEY}.lora_A.weight`]: [0], [`${KEY}.lora_B.weight`]: [0] }, "2 of 2 tensors are empty, as DeepSpeed's ZeRO-3"],
    ["DoRA's vectors without the flag", {}, { ...PAIR, [`${KEY}.lora_magnitude_vector`]: [4] }, `DoRA: trained magnitudes of weights: 1 tensor\n    "${KEY}.lora_magnitude_vector"`],
    ["factors of an embedding", {}, { ...PAIR, "base_model.model.model.tok_embeddings.lora_embedding_A": [2, 9] }, "factors of an embedding: 1 tensor"],
    ["trained tokens",        {}, { ...PAIR, "base_model.model.model.tok_embeddings.token_adapter.trainable_tokens_delta": [2, 9] }, "trained embeddings of single tokens"],
    ["saved embeddings",      {}, { ...PAIR, "base_model.model.model.tok_embeddings.weight": [9, 3] }, "whole weights (modules_to_save, or saved embeddings)"],
    ["trained biases without the flag", {}, { ...PAIR, [`${KEY}.base_layer.bias`]: [4] }, "trained biases"],
    ["biases of factors without the flag", {}, { ...PAIR, [`${KEY}.lora_B.bias`]: [4] }, "biases of the factors (lora_bias)"],
    ["KaSA's singular values", {}, { ...PAIR, [`${KEY}.lora_diag`]: [2] },        "KaSA: trained singular values"],
    ["an unknown tensor",     {}, { ...PAIR, "base_model.model.plora_glb_GN": [1, 1, 8] }, "tensors that lorafit does not know"],
    ["another method",        { peft_type: "IA3" }, PAIR,                         "peft_type:"],
    ["DoRA",                  { use_dora: true }, PAIR,                           "use_dora:"],
    ["trained biases",        { bias: "all" }, PAIR,                              "bias:"],
    ["biases of factors",     { lora_bias: true }, PAIR,                          "lora_bias:"],
    ["whole trained modules", { modules_to_save: ["output"] }, PAIR,              "modules_to_save"],
    ["transposed weights",    { fan_in_fan_out: true }, PAIR,                     "fan_in_fan_out:"],
    ["repeated layers",       { layer_replication: [[0, 4]] }, PAIR,              "layer_replication:"],
    ["aLoRA",                 { alora_invocation_tokens: [4, 5] }, PAIR,          "alora_invocation_tokens: aLoRA"],
    ["trained tokens by configuration", { trainable_token_indices: [5] }, PAIR,   "trainable_token_indices:"],
    ["QALoRA",                { use_qalora: true }, PAIR,                         "use_qalora: QALoRA"],
    ["factors of parameters", { target_parameters: ["experts.w"] }, PAIR,         "target_parameters:"],
    ["BD-LoRA",               { use_bdlora: { nblocks: 2 } }, PAIR,               "use_bdlora: BD-LoRA"],
    ["Arrow",                 { arrow_config: { top_k: 3 } }, PAIR,               "arrow_config: Arrow"],
    ["KaSA",                  { kasa_config: { beta: 1e-4 } }, PAIR,              "kasa_config: KaSA"],
    ["MonteCLoRA",            { monteclora_config: { num_samples: 8 } }, PAIR,    "monteclora_config: MonteCLoRA"],
    ["Megatron's shards",     { megatron_config: { tp: 2 } }, PAIR,               "megatron_config:"],
    ["LoRA-GA",               { init_lora_weights: "lora_ga" }, PAIR,             "init_lora_weights: changes the base's weights"],
    ["a field that it does not know", { new_magic: 3 }, PAIR,                     '"new_magic": lorafit does not know this field'],
    ["a base that it changed", { init_lora_weights: "pissa_niter_4" }, PAIR,      "init_lora_weights: changes the base's weights"],
    ["rank 0",                { r: 0 }, PAIR,                                     "r:"],
    ["a pattern that is none", { alpha_pattern: { "(": 2 } }, PAIR,               'alpha_pattern: "(" is not a regular expression'],
    ["lookahead in a pattern", { rank_pattern: { "(?!wo).*": 2 } }, PAIR,         "lookahead, lookbehind and backreferences"],
    ["a pattern of many characters", { rank_pattern: { ["a|".repeat(501)]: 2 } }, PAIR, "has 1002 characters; at most 1000"],
  ];
  it.each(FAULTS)("refuses %s", (_, config, tensors, message) => {
    const folder = adapterOf(config, tensors);
    const fault = faultOf(folder);
    expect(fault).toBeInstanceOf(UserError);
    expect(`${fault.message}\n${fault.fix}`).toContain(message);
  });

  it("refuses factors that are no floating numbers, NaN or infinite", () => {
    const folderOf = (b: Tensor): string => {
      const folder = adapterOf({}, PAIR);
      const pair = [
        [`${KEY}.lora_A.weight`, zeros([2, 3])],
        [`${KEY}.lora_B.weight`, b],
      ] as const;
      writeSafetensors(join(folder, "adapter_model.safetensors"), pair);
      return folder;
    };
    scope(() => {
      for (const bad of [Number.NaN, Number.NEGATIVE_INFINITY]) {
        const folder = folderOf(fromArray([0, 0, 0, 0, bad, 0, 0, 0], [4, 2]));
        expect(faultOf(folder).message).toContain(
          `"${KEY}.lora_B.weight" has values that are NaN or infinite`,
        );
      }
      const folder = folderOf(zeros([4, 2], { dtype: "int8" }));
      expect(faultOf(folder).message).toContain("a factor is int8");
    });
  });

  it("refuses factors of another model: other shapes, other modules", () => {
    const shapes = new Map([["model.layers.0.attention.wqkv.weight", [4, 5]]]);
    const pooled = new Map([["model.layers.0.attention.wqkv.weight", [4, 48]]]);
    expect(() => scope(() => void readAdapter(adapterOf({}, PAIR), { shapes: pooled }))).toThrow(
      "is it QALoRA",
    );
    expect(() => scope(() => void readAdapter(adapterOf({}, PAIR), { shapes }))).toThrow(
      "A [2,3] and B [4,2] instead of [2, 5] and [4, 2]",
    );
    expect(() => scope(() => void readAdapter(adapterOf({}, PAIR), { shapes: new Map() }))).toThrow(
      "the model has no such linear layer",
    );
  });

  it("says what a folder lacks", () => {
    expect(() => readAdapter(root)).toThrow("is not an adapter: it has no adapter_config.json");
    const folder = join(root, "config-only");
    mkdirSync(folder);
    copyFileSync(golden("tiny_lora/adapter_config.json"), join(folder, "adapter_config.json"));
    expect(() => readAdapter(folder)).toThrow("has no factors");
    writeFileSync(join(folder, "adapter_model.safetensors"), "short");
    expect(() => readAdapter(folder)).toThrow("too short for a safetensors file");
  });
});

describe("writing and reading", () => {
  const rank = fc.integer({ min: 1, max: 5 });
  const linear = fc.constantFrom("attention.wqkv", "attention.wo", "feed_forward.w2");
  const module = fc.record({ layer: fc.nat(12), linear, rank, alpha: fc.integer({ min: 1, max: 128 }) });

  it("gives back modules of any rank and scale", () => {
    const modules = fc.uniqueArray(module, {
      selector: (given) => `layers.${given.layer}.${given.linear}`,
      minLength: 1,
      maxLength: 5,
    });
    fc.assert(
      fc.property(
        modules,
        rank,
        fc.boolean(),
        fc.constantFrom(...PREFIXES),
        (given, r, useRslora, prefix) => {
          scope(() => {
            const adapter: Adapter = {
              config: { r, loraAlpha: 16, loraDropout: 0.05, targetModules: "x", useRslora, baseModel: "b" },
              prefix,
              modules: new Map(
                given.map(({ layer, linear, rank, alpha }) => [
                  `layers.${layer}.${linear}`,
                  {
                    a: randn([rank, 3]),
                    b: randn([4, rank]),
                    scale: alpha / (useRslora ? Math.sqrt(rank) : rank),
                  },
                ]),
              ),
            };
            const folder = join(root, "property");
            writeAdapter(folder, adapter);
            const { config, modules, ...read } = readAdapter(folder);
            expect(config).toEqual(adapter.config);
            expect(read.prefix).toBe(prefix);
            expect([...modules.keys()].sort()).toEqual([...adapter.modules.keys()].sort());
            for (const [name, { a, b, scale }] of adapter.modules) {
              const found = modules.get(name)!;
              expect([values(found.a), values(found.b)]).toEqual([values(a), values(b)]);
              expect(found.scale).toBeCloseTo(scale, 10);
            }
          });
        },
      ),
      { numRuns: 30 },
    );
  });

  it("replaces an adapter whole, though it is mapped meanwhile", () => {
    const folder = join(root, "replaced");
    const write = (value: number): void =>
      scope(() =>
        writeAdapter(folder, {
          config: { r: 1, loraAlpha: 1, loraDropout: 0, targetModules: [], useRslora: false, baseModel: "" },
          prefix: "model.",
          modules: new Map([
            ["layers.0.attention.wo", { a: fromArray([value], [1, 1]), b: fromArray([1], [1, 1]), scale: 1 }],
          ]),
        }),
      );
    write(1);
    scope(() => {
      const first = readAdapter(folder);
      write(2);
      expect(values(first.modules.get("layers.0.attention.wo")!.a)).toEqual([1]);
      expect(values(readAdapter(folder).modules.get("layers.0.attention.wo")!.a)).toEqual([2]);
    });
  });
});
