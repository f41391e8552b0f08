/**
 * A second family for tests, unlike the first in all that a family may decide: queries, keys and values from
 * linears of their own with biases, no PLoRA, other names of tensors, pictures limited by their pixels, and
 * positions with three axes.
 */
import type { PictureForm, PictureLayout } from "../../src/data/pictures/form.ts";
import { PICTURE_FORMS, type PictureRules } from "../../src/data/pictures/forms.ts";
import type { PictureLimit } from "../../src/data/pictures/pictureLimit.ts";
import { FAMILIES } from "../../src/models/families.ts";
import type { EncodeOptions, Family, LinearSpec, ModelConfig, TensorSpec } from "../../src/models/family.ts";
import { llamaNames, llamaTensors } from "../../src/models/llamaDecoder.ts";
import type { PlacedRows } from "../../src/models/positions.ts";
import type { Positions } from "../../src/nn/attention/rope.ts";
import { type FrozenMatrix, frozenProduct } from "../../src/nn/frozen/frozen.ts";
import { kindsOf, rowCount, rowsOf, tilesOf } from "../../src/nn/rows.ts";
import { count } from "../../src/options.ts";
import { empty, fromArray } from "../../src/torch/create.ts";
import { category } from "../../src/torch/device.ts";
import { scope, type Tensor } from "../../src/torch/tensor.ts";
import { repeated } from "../../src/torch/trace.ts";

/** Pixels along the side of a patch, which becomes one token. */
const PATCH_PIXELS = 4;
const PATCH_VALUES = 3 * PATCH_PIXELS ** 2;

/** A picture as rows of patches; its units are patches. */
interface Patches extends PictureLayout {
  rows: number;
  cols: number;
  /** (rows * cols, values of a patch) */
  values?: Uint8Array;
}

/** Returns the layout of a picture of patches. */
export function patches(rows: number, cols: number): Patches {
  return { rows, cols, tokens: rows * cols, units: rows * cols };
}

const LIMIT = {
  option: "max_pixels",
  flag: "max-pixels",
  key: "maxPixels",
  default: 64 * PATCH_PIXELS ** 2,
  schema: count.optional(),
  help: {
    plan: "Largest number of pixels",
    init: "Largest number of pixels",
    serve: "Largest number of pixels",
  },
  unit: "pixels",
  inWords: "--max-pixels",
  lower: "a lower --max-pixels",
  *below(pixels: number) {
    for (let side = Math.ceil(Math.sqrt(pixels)) - 1; side >= PATCH_PIXELS; side--) yield side ** 2;
  },
  range: { least: PATCH_PIXELS ** 2, most: 2 ** 20 },
  usual: [256, 1024],
  steps: [256, 1024],
  mostDrawn: 2 ** 20,
  smaller: [256],
} satisfies PictureLimit;

const PATCH_FORM: PictureForm = {
  limit: LIMIT,
  layout({ width, height }, maxPixels) {
    const shrink = Math.min(1, Math.sqrt(maxPixels / (width * height)));
    const along = (pixels: number): number => Math.max(1, Math.floor((pixels * shrink) / PATCH_PIXELS));
    return { ...patches(along(height), along(width)), source: { width, height } };
  },
  placing: ({ width, height }, maxPixels) => ({ width, height, maxPixels }),
  largest: (maxPixels) => patches(1, Math.max(1, Math.floor(maxPixels / PATCH_PIXELS ** 2))),
  within: (tokens) => (tokens >= 1 ? patches(1, tokens) : undefined),
  ofUnits: (units) => patches(1, units),
  black: (layout) => ({ ...layout, values: new Uint8Array(layout.units * PATCH_VALUES) }) as PictureLayout,
  load: () => Promise.reject(new Error("this family's pictures have no files")),
  preview: () => Promise.reject(new Error("this family's pictures have no files")),
};

/** Returns a picture of random pixels. */
export function randomPatches(rows: number, cols: number, random: () => number): Patches {
  const values = Uint8Array.from({ length: rows * cols * PATCH_VALUES }, () => Math.floor(random() * 256));
  return { ...patches(rows, cols), values };
}

/** weight: (C, values of a patch) */
interface PatchWeights {
  weight: FrozenMatrix;
}

function* encodeInto(
  tokens: Tensor,
  weights: object,
  _: ModelConfig,
  picture: PictureLayout,
  { dtype, device, visionBatch }: EncodeOptions,
): Generator<{ done: number; total: number }, void> {
  const { weight } = weights as PatchWeights;
  const { units, values } = picture as Patches;
  for (const { part, times } of kindsOf(tilesOf(units, visionBatch), (rows) => `${rowCount(rows)}`)) {
    const encode = (): void => {
      const shape = [rowCount(part), PATCH_VALUES];
      const own = values?.subarray(part.start * PATCH_VALUES, part.end * PATCH_VALUES);
      const given = { dtype: "uint8", device } as const;
      const pixels = category("inputData", () => (own ? fromArray(own, shape, given) : empty(shape, given)));
      rowsOf(tokens, part).copy_(frozenProduct(pixels.to({ dtype }).div_(255), weight));
    };
    repeated(times, () => scope(encode));
    yield { done: part.end, total: units };
  }
}

/**
 * Returns three rows of positions. Text counts on all axes alike; a picture stays at one time, and its
 * patches have their row and column. The text after it is beyond all of these.
 */
function positions({ sampleTokens, imageSlices, images }: PlacedRows): Positions {
  const total = sampleTokens.reduce((sum, tokens) => sum + tokens, 0);
  const values = new Int32Array(3 * total);
  const place = (row: number, at: readonly [number, number, number]): void => {
    for (const [axis, position] of at.entries()) values[axis * total + row] = position;
  };
  const slices = new Map(imageSlices.map((slice) => [slice.start, slice]));
  let row = 0;
  for (const tokens of sampleTokens) {
    const end = row + tokens;
    for (let next = 0; row < end; ) {
      const slice = slices.get(row);
      if (!slice) {
        place(row++, [next, next, next]);
        next++;
        continue;
      }
      const { rows, cols } = images[slice.image] as Patches;
      for (; row < slice.end; row++) {
        const patch = row - slice.start;
        place(row, [next, next + Math.floor(patch / cols), next + (patch % cols)]);
      }
      next += Math.max(rows, cols);
    }
  }
  return { axes: 3, values };
}

const LINEARS: Record<string, LinearSpec> = {
  "self_attn.q_proj": linear(({ heads, headDim, hidden }) => [heads * headDim, hidden], true),
  "self_attn.k_proj": linear(({ kvHeads, headDim, hidden }) => [kvHeads * headDim, hidden], true),
  "self_attn.v_proj": linear(({ kvHeads, headDim, hidden }) => [kvHeads * headDim, hidden], true),
  "self_attn.o_proj": linear(({ heads, headDim, hidden }) => [hidden, heads * headDim]),
  "mlp.gate_proj": linear(({ hidden, ffn }) => [ffn, hidden]),
  "mlp.up_proj": linear(({ hidden, ffn }) => [ffn, hidden]),
  "mlp.down_proj": linear(({ hidden, ffn }) => [hidden, ffn]),
};

function linear(shape: LinearSpec["shape"], bias = false): LinearSpec {
  return { shape, bias: () => bias };
}

const NAMES = llamaNames("model.", "lm_head.weight");

function tensors(config: ModelConfig): Map<string, TensorSpec> {
  const patch = { shape: [config.hidden, PATCH_VALUES], part: "vision", precision: "visionBase" } as const;
  return llamaTensors(config, NAMES, LINEARS).set("visual.patch.weight", patch);
}

const TOY: Family = {
  title: "Toy",
  recognises: ({ model_type: type }) => type === "toy",
  presets: {},
  published: (name) => ({ name, repository: name }),
  trained: ({ maxPositions }) => ({ maxLength: maxPositions, pictureLimit: 4096 }),
  linearNames: Object.keys(LINEARS),
  targets: "self_attn|mlp",
  pictureRules: () => ({ form: "toyPatches" }) as unknown as PictureRules,
  readConfig: () => {
    throw new Error("this family has no checkpoints");
  },
  tokenizer: async () => undefined,
  tensors,
  names: NAMES,
  linears: LINEARS,
  roles: {
    output: "self_attn.o_proj",
    gate: "mlp.gate_proj",
    up: "mlp.up_proj",
    down: "mlp.down_proj",
  },
  qkv({ heads, kvHeads, headDim: D }, kvHead) {
    const Q = heads / kvHeads;
    const own = { start: kvHead * D, end: (kvHead + 1) * D };
    return [
      { linear: "self_attn.q_proj", rows: { start: kvHead * Q * D, end: (kvHead + 1) * Q * D }, as: "q" },
      { linear: "self_attn.k_proj", rows: own, as: "k" },
      { linear: "self_attn.v_proj", rows: own, as: "v" },
    ];
  },
  positions,
  pictures: {
    assemble: (_, { matrix }, base): PatchWeights => ({ weight: matrix("visual.patch.weight", base) }),
    encodeInto,
  },
  peft: { prefix: { newest: "model.", older: "model." }, isSharedWithTower: false },
  modulesInFull: { visionBase: ["visual"], headBase: ["lm_head"], branches: [] },
};

/** Puts the family into the tables, as its folder and two rows would. */
export function addToyFamily(): void {
  FAMILIES.toy = TOY;
  (PICTURE_FORMS as unknown as Record<string, () => PictureForm>).toyPatches = () => PATCH_FORM;
}

/** Returns the sizes of a model of this family with a few thousand parameters. */
export function toyConfig(overrides: Partial<ModelConfig> = {}): ModelConfig {
  return {
    family: "toy",
    hidden: 32,
    layers: 3,
    heads: 4,
    kvHeads: 2,
    headDim: 8,
    ffn: 48,
    vocab: 97,
    rmsEps: 1e-6,
    ropeTheta: 1e4,
    maxPositions: 4096,
    axisOfPair: [0, 1, 2, 1],
    bosId: 1,
    eosIds: [2],
    ...overrides,
  };
}
