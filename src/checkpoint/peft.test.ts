import { copyFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { afterAll, describe, expect, it } from "vitest";
import { floats, readFixture } from "../../tests/helpers/fixtures.ts";
import { golden } from "../../tests/helpers/shared.ts";
import { pickled, torchZip } from "../../tests/helpers/torchFile.ts";
import { UserError } from "../errors.ts";
import { fromArray, randn, zeros } from "../torch/create.ts";
import { liveTensors } from "../torch/device.ts";
import { scope, type Tensor } from "../torch/tensor.ts";
import { openModelFolder } from "./folder.ts";
import { type Adapter, readAdapter, type StoredAdapter, weightNameOf, writeAdapter } from "./peft.ts";
import { writeSafetensors } from "./safetensors.ts";

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

const PAIR = { [`${KEY}.lora_A.weight`]: [2, 3], [`${KEY}.lora_B.weight`]: [4, 2] };

function read<T>(folder: string, body: (adapter: StoredAdapter) => T): T {
  let result: T | undefined;
  scope(() => {
    result = body(readAdapter(folder));
    return undefined;
  });
  return result as T;
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
        expect(adapter.ignored).toEqual([]);
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

  it("takes keys with the adapter's name, without prefix, and leaves unknown ones out by name", () => {
    const wo = "model.layers.1.attention.wo";
    const folder = adapterOf(
      { some_future_key: { a: 1 } },
      {
        [`${KEY}.lora_A.default.weight`]: [2, 3],
        [`${KEY}.lora_B.default.weight`]: [4, 2],
        [`${wo}.lora_A.weight`]: [2, 4],
        [`${wo}.lora_B.weight`]: [3, 2],
        "base_model.model.plora_glb_GN": [1, 1, 8],
        [`${KEY}.lora_embedding_A`]: [2, 3],
      },
    );
    read(folder, ({ modules, ignored }) => {
      expect([...modules.keys()].sort()).toEqual(["layers.0.attention.wqkv", "layers.1.attention.wo"]);
      expect(ignored.sort()).toEqual([`${KEY}.lora_embedding_A`, "base_model.model.plora_glb_GN"].sort());
    });
    const told: string[] = [];
    scope(() => void readAdapter(folder, { notice: (text) => told.push(text) }));
    expect(told).toEqual([expect.stringContaining("left out 2 tensors beside the LoRA factors:\n")]);
    expect(told[0]).toContain("\n  base_model.model.plora_glb_GN");
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
  });

  // biome-ignore format: a table
  const FAULTS: [claim: string, config: object, tensors: Record<string, number[]>, message: string][] = [
    ["another rank than the configuration's", { r: 4 }, PAIR, "layers.0.attention.wqkv: A [2,3] and B [4,2] instead of [4, 3] and [4, 4]"],
    ["factors of two ranks",  {}, { ...PAIR, [`${KEY}.lora_B.weight`]: [4, 3] },  "instead of [2, 3] and [4, 2]"],
    ["a factor alone",        {}, { [`${KEY}.lora_A.weight`]: [2, 3] },           "layers.0.attention.wqkv: lora_B is missing"],
    ["a factor of one dim",   {}, { ...PAIR, [`${KEY}.lora_A.weight`]: [2] },     "A [2] and B [4,2]"],
    ["a factor twice",        {}, { ...PAIR, [`${KEY}.lora_A.default.weight`]: [2, 3] }, "two tensors for lora_A of layers.0.attention.wqkv"],
    ["no factors",            {}, { x: [1] },                                     "it has no LoRA factors"],
    ["another method",        { peft_type: "IA3" }, PAIR,                         "peft_type:"],
    ["DoRA",                  { use_dora: true }, PAIR,                           "use_dora:"],
    ["trained biases",        { bias: "all" }, PAIR,                              "bias:"],
    ["biases of factors",     { lora_bias: true }, PAIR,                          "lora_bias:"],
    ["whole trained modules", { modules_to_save: ["output"] }, PAIR,              "modules_to_save"],
    ["transposed weights",    { fan_in_fan_out: true }, PAIR,                     "fan_in_fan_out:"],
    ["repeated layers",       { layer_replication: [[0, 4]] }, PAIR,              "layer_replication:"],
    ["a base that it changed", { init_lora_weights: "pissa_niter_4" }, PAIR,      "init_lora_weights: changes the base's weights"],
    ["rank 0",                { r: 0 }, PAIR,                                     "r:"],
    ["a pattern that is none", { alpha_pattern: { "(": 2 } }, PAIR,               '"(" is no regular expression'],
  ];
  it.each(FAULTS)("refuses %s", (_, config, tensors, message) => {
    const folder = adapterOf(config, tensors);
    expect(() => read(folder, () => undefined)).toThrow(UserError);
    expect(() => read(folder, () => undefined)).toThrow(message);
  });

  it("refuses factors of another model: other shapes, other modules", () => {
    const shapes = new Map([[weightNameOf("layers.0.attention.wqkv"), [4, 5]]]);
    expect(() => scope(() => void readAdapter(adapterOf({}, PAIR), { shapes }))).toThrow(
      "A [2,3] and B [4,2] instead of [2, 5] and [4, 2]",
    );
    expect(() => scope(() => void readAdapter(adapterOf({}, PAIR), { shapes: new Map() }))).toThrow(
      "layers.0.attention.wqkv: the model has no such linear",
    );
  });

  it("says what a folder lacks", () => {
    expect(() => readAdapter(root)).toThrow("is no adapter: there is no adapter_config.json");
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
      fc.property(modules, rank, fc.boolean(), (given, r, useRslora) => {
        scope(() => {
          const adapter: Adapter = {
            config: { r, loraAlpha: 16, loraDropout: 0.05, targetModules: "x", useRslora, baseModel: "b" },
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
          const { config, modules, ignored } = readAdapter(folder);
          expect([config, ignored]).toEqual([adapter.config, []]);
          expect([...modules.keys()].sort()).toEqual([...adapter.modules.keys()].sort());
          for (const [name, { a, b, scale }] of adapter.modules) {
            const found = modules.get(name)!;
            expect([values(found.a), values(found.b)]).toEqual([values(a), values(b)]);
            expect(found.scale).toBeCloseTo(scale, 10);
          }
        });
      }),
      { numRuns: 30 },
    );
  });

  it("replaces an adapter whole, though it is mapped meanwhile", () => {
    const folder = join(root, "replaced");
    const write = (value: number): void =>
      scope(() =>
        writeAdapter(folder, {
          config: { r: 1, loraAlpha: 1, loraDropout: 0, targetModules: [], useRslora: false, baseModel: "" },
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
