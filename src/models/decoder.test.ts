import { describe, expect, it } from "vitest";
import {
  randomLora,
  randomModel,
  randomTensor,
  relativeDifference,
  smallConfig,
} from "../../tests/helpers/randomModel.ts";
import { moduleNames } from "../../tests/helpers/reference.ts";
import { oneAxis, ropeTables } from "../nn/attention/rope.ts";
import { dropped } from "../nn/dropout.ts";
import { frozenValues } from "../nn/frozen/frozen.ts";
import type { Linear, LoraBranch } from "../nn/linear.ts";
import { type Rows, rowSource, rowsOf } from "../nn/rows.ts";
import { cat, fromArray, where } from "../torch/create.ts";
import { memoryStats } from "../torch/device.ts";
import { grad, scope, type Tensor, withGrad } from "../torch/tensor.ts";
import { askedFrom, type Sequence } from "./attentionGroups.ts";
import { attentionBackward_, attentionForward_, type Layer, mlpBackward_, mlpForward_ } from "./decoder.ts";
import { familyOf } from "./families.ts";
import { byRole } from "./join.ts";
import { loraBranch } from "./lora.ts";
import { type MlpRows, pickRows } from "./tiles.ts";
import { XCOMPOSER_LINEARS, type XComposerConfig, type XComposerLinear } from "./xcomposer2/spec.ts";

const config = smallConfig();
/** PLoRA of a rank at which pictures of a few dozen rows are enough to merge it. */
const wide = smallConfig({
  plora: Object.fromEntries(
    XCOMPOSER_LINEARS.map((name) => [name, { rank: 128, scale: 0.1 }]),
  ) as XComposerConfig["plora"],
});
const { headDim: D, kvHeads: G, heads } = config;
const Q = heads / G;

interface Case {
  name: string;
  samples: number[];
  imageRows: Rows[];
  rank?: number;
  targets?: string;
  headGroups?: number;
  attentionInput?: Sequence["attentionInput"];
  mlpTileTokens?: number;
  plora?: Sequence["plora"];
  dropout?: number;
  kernel?: Sequence["shape"]["kernel"];
}

const CASES: Case[] = [
  { name: "text of an odd number of tokens", samples: [37], imageRows: [] },
  {
    name: "fewer tokens than a tile",
    samples: [5],
    imageRows: [{ start: 1, end: 3 }],
    mlpTileTokens: 512,
  },
  { name: "only image rows", samples: [29], imageRows: [{ start: 0, end: 29 }] },
  {
    name: "several pictures over several tiles",
    samples: [40],
    imageRows: [
      { start: 2, end: 11 },
      { start: 20, end: 33 },
    ],
    mlpTileTokens: 9,
  },
  {
    name: "packed samples in head groups",
    samples: [13, 1, 22],
    imageRows: [
      { start: 3, end: 9 },
      { start: 20, end: 30 },
    ],
    headGroups: 2,
  },
  {
    name: "attention's input recomputed in tiles",
    samples: [13, 27],
    imageRows: [
      { start: 3, end: 9 },
      { start: 16, end: 21 },
    ],
    headGroups: 2,
    attentionInput: "recomputed",
    mlpTileTokens: 7,
  },
  { name: "a rank that is no multiple of 8", samples: [31], imageRows: [{ start: 4, end: 8 }], rank: 3 },
  { name: "LoRA on some linears only", samples: [18], imageRows: [{ start: 4, end: 8 }], targets: "wo$|w1$" },
  {
    name: "PLoRA merged, only image rows",
    samples: [70],
    imageRows: [{ start: 0, end: 70 }],
    plora: "merged",
  },
  {
    name: "PLoRA merged, packed samples in head groups and tiles",
    samples: [40, 57],
    imageRows: [
      { start: 2, end: 31 },
      { start: 50, end: 90 },
    ],
    headGroups: 2,
    attentionInput: "recomputed",
    mlpTileTokens: 20,
    plora: "merged",
  },
  {
    name: "PLoRA merged, one tile",
    samples: [30, 50],
    imageRows: [
      { start: 0, end: 24 },
      { start: 24, end: 28 },
      { start: 33, end: 78 },
    ],
    targets: "wo$|w1$",
    plora: "merged",
  },
  {
    name: "dropout, in head groups and tiles",
    samples: [90, 41],
    imageRows: [{ start: 20, end: 80 }],
    headGroups: 2,
    attentionInput: "recomputed",
    mlpTileTokens: 33,
    dropout: 0.3,
  },
  { name: "dropout in one piece", samples: [60], imageRows: [], dropout: 0.05 },
];

function caseOf(wanted: string): Case {
  return CASES.find(({ name }) => name === wanted)!;
}

function build({
  samples,
  imageRows,
  rank = 4,
  targets = ".",
  headGroups = 1,
  attentionInput = "kept",
  mlpTileTokens = 512,
  plora = "apart",
  dropout = 0,
  kernel,
}: Case) {
  const model = randomModel(plora === "merged" ? wide : config);
  const lora = { ...randomLora(config, { rank, targets, dtype: "float64" }), dropout };
  const positions = samples.flatMap((tokens) => Array.from({ length: tokens }, (_, at) => at));
  let end = 0;
  const rows = samples.map((tokens) => {
    end += tokens;
    return { start: end - tokens, end };
  });
  const sequence: Sequence = {
    rope: ropeTables(oneAxis(Int32Array.from(positions)), config, { dtype: "float64", device: "cpu" }),
    shape: { Q, D, samples: rows, kernel },
    ploraRows: imageRows,
    kvHeads: G,
    qkv: (kvHead) => familyOf(config).qkv(config, kvHead),
    headGroups,
    attentionInput,
    plora,
    mlpTileTokens,
  };
  const weights = model.layers[0]!;
  const linears = new Map(
    XCOMPOSER_LINEARS.map((name) => {
      const branch = loraBranch(lora, 0, name, { dtype: "float64", dropoutSeed: 5n });
      return [name, { ...weights.linears[name]!, lora: branch }] as const;
    }),
  );
  const layer: Layer = {
    attentionNorm: { weight: weights.attentionNorm, eps: config.rmsEps },
    ffnNorm: { weight: weights.ffnNorm, eps: config.rmsEps },
    ...byRole(config, linears),
  };
  return { model, lora, sequence, layer, tokens: end };
}

/**
 * Returns the part of x, (T, in), that a branch reads: x itself, or x masked by dropout, as a factor that
 * autograd knows.
 */
function seenBy({ dropout }: LoraBranch, x: Tensor): Tensor {
  return dropout ? x.mul(dropped(x.detach().zerosLike().add(1), dropout, { place: 0, column: 0 })) : x;
}

/** The layer in autograd, with A and B as leaves. */
function plain(layer: Layer, sequence: Sequence, leaves: Map<string, Tensor>) {
  const { output, gate, up, down } = layer;
  const linears: Record<XComposerLinear, Linear> = {
    "attention.wqkv": layer.qkv.get("attention.wqkv")!,
    "attention.wo": output,
    "feed_forward.w1": gate,
    "feed_forward.w2": down,
    "feed_forward.w3": up,
  };
  const linear = (name: XComposerLinear, x: Tensor): Tensor => {
    const { weight, plora, lora } = linears[name];
    const rows = new Uint8Array(x.shape[0]!);
    for (const { start, end } of sequence.ploraRows) rows.fill(1, start, end);
    const mask = fromArray(rows, [rows.length, 1], { dtype: "bool" });
    const image = x.mm(plora!.a.t()).mm(plora!.b.t()).mul(plora!.scale);
    const y = x.mm(frozenValues(weight).t()).add(where(mask, image, image.mul(0)));
    if (!lora) return y;
    return y.add(
      seenBy(lora, x)
        .mm(leaves.get(`${name}.a`)!.t())
        .mm(leaves.get(`${name}.b`)!.t())
        .mul(lora.scale),
    );
  };
  const norm = (x: Tensor, { weight, eps }: Layer["ffnNorm"]): Tensor =>
    x.mul(x.square().meanDim([-1], { keepdim: true }).add(eps).rsqrt()).mul(weight);
  const rotate = (x: Tensor): Tensor => {
    const [first, second] = [x.narrow(3, 0, D / 2), x.narrow(3, D / 2, D / 2)];
    const { cos, sin } = sequence.rope;
    return cat([first.mul(cos).sub(second.mul(sin)), second.mul(cos).add(first.mul(sin))], 3);
  };
  const attention = (h: Tensor): Tensor => {
    const packed = linear("attention.wqkv", norm(h, layer.attentionNorm)).view([-1, G, Q + 2, D]);
    const [query, key] = [rotate(packed.narrow(2, 0, Q)), rotate(packed.narrow(2, Q, 1))];
    const value = packed.narrow(2, Q + 1, 1);
    const outputs = sequence.shape.samples.map((rows) => {
      const t = rows.end - rows.start;
      const cut = (x: Tensor): Tensor => rowsOf(x, rows).permute([1, 2, 0, 3]);
      const later = Uint8Array.from({ length: t * t }, (_, at) => (at % t > Math.floor(at / t) ? 1 : 0));
      const scores = cut(query)
        .matmul(cut(key).transpose(2, 3))
        .mul(D ** -0.5);
      const masked = scores.maskedFill(fromArray(later, [t, t], { dtype: "bool" }), Number.NEGATIVE_INFINITY);
      return masked
        .softmax(-1)
        .matmul(cut(value))
        .permute([2, 0, 1, 3])
        .reshape([t, heads * D]);
    });
    return h.add(linear("attention.wo", cat(outputs, 0)));
  };
  const mlp = (h: Tensor): Tensor => {
    const x = norm(h, layer.ffnNorm);
    return h.add(
      linear("feed_forward.w2", linear("feed_forward.w1", x).silu().mul(linear("feed_forward.w3", x))),
    );
  };
  return { attention, mlp };
}

/** Forward of h in place with its input at hand or not, then backward of dy in place. */
const SEGMENTS = {
  attention: (h: Tensor, input: Tensor, dy: Tensor, layer: Layer, sequence: Sequence, keeps: boolean) => {
    const source = rowSource(input);
    const kept = attentionForward_(h, layer, sequence, { keeps, input: keeps ? undefined : source });
    attentionBackward_(dy, source, layer, sequence, kept);
  },
  mlp: (h: Tensor, input: Tensor, dy: Tensor, layer: Layer, sequence: Sequence, keeps: boolean) => {
    const kept = mlpForward_(h, layer, sequence, keeps);
    mlpBackward_(dy, input, layer, sequence, kept);
  },
} as const;

describe.each(CASES)("$name", (given) => {
  it.each(["attention", "mlp"] as const)(
    "%s: outputs and every gradient equal autograd's, kept or recomputed",
    (segment) => {
      scope(() => {
        const { lora, sequence, layer, tokens } = build(given);
        const input = randomTensor([tokens, config.hidden], 11);
        const dy = randomTensor([tokens, config.hidden], 12);
        const leaves = new Map<string, Tensor>();
        for (const name of XCOMPOSER_LINEARS) {
          const module = lora.modules.get(`layers.0.${name}`);
          if (module && name.startsWith(segment === "attention" ? "attention" : "feed")) {
            leaves
              .set(`${name}.a`, module.a.value.detach().requiresGrad_())
              .set(`${name}.b`, module.b.value.detach().requiresGrad_());
          }
        }
        const leaf = input.detach().requiresGrad_();
        const { y, gradients } = withGrad(() => {
          const out = plain(layer, sequence, leaves)[segment](leaf);
          return { y: out.detach(), gradients: grad([out], [leaf, ...leaves.values()], [dy]) };
        });
        for (const keeps of [false, true]) {
          for (const { a, b } of lora.modules.values()) {
            a.gradient!.zero_();
            b.gradient!.zero_();
          }
          const h = input.clone();
          const dh = dy.clone();
          SEGMENTS[segment](h, input, dh, layer, sequence, keeps);
          expect(relativeDifference(h, y)).toBeLessThan(1e-12);
          expect(relativeDifference(dh, gradients[0]!)).toBeLessThan(1e-9);
          [...leaves.keys()].forEach((name, index) => {
            const module = lora.modules.get(`layers.0.${name.slice(0, -2)}`)!;
            const ours = name.endsWith(".a") ? module.a.gradient! : module.b.gradient!;
            expect(relativeDifference(ours, gradients[index + 1]!), name).toBeLessThan(1e-9);
          });
        }
      });
    },
  );
});

describe("a layer", () => {
  it("gives back every byte that its segments take", () => {
    scope(() => {
      const { sequence, layer, tokens } = build(
        caseOf("PLoRA merged, packed samples in head groups and tiles"),
      );
      const h = randomTensor([tokens, config.hidden], 11);
      const dy = randomTensor([tokens, config.hidden], 12);
      const beforeBytes = memoryStats("cpu").liveBytes;
      attentionForward_(h, layer, sequence);
      mlpForward_(h, layer, sequence);
      mlpBackward_(dy, h, layer, sequence);
      attentionBackward_(dy, rowSource(h), layer, sequence);
      expect(memoryStats("cpu").liveBytes).toBe(beforeBytes);
    });
  });

  it("has the same MLP on picked rows, of pictures or not, as on all", () => {
    scope(() => {
      const { lora, sequence, layer, tokens } = build(caseOf("several pictures over several tiles"));
      const [input, dy] = [11, 12].map((seed) => randomTensor([tokens, config.hidden], seed));
      const picked = Int32Array.from([0, 1, 5, 10, 11, 12, 19, 20, 33, 39]);
      const rows = fromArray(picked, [picked.length], { dtype: "int64" });
      const through = (x: Tensor, dx: Tensor, seen: MlpRows): Tensor[] => {
        const y = x.clone();
        for (const { a, b } of lora.modules.values()) [a.gradient, b.gradient].map((each) => each!.zero_());
        mlpForward_(y, layer, seen);
        mlpBackward_(dx, x, layer, seen);
        return [
          y,
          dx,
          ...[...lora.modules.values()].flatMap(({ a, b }) => [a.gradient!.clone(), b.gradient!.clone()]),
        ];
      };
      const ofPicked = dy!.zerosLike().indexCopy_(0, rows, dy!.indexSelect(0, rows));
      const [y, dx, ...factors] = through(input!, ofPicked, sequence);
      const [part, dPart, ...others] = through(
        input!.indexSelect(0, rows),
        dy!.indexSelect(0, rows),
        pickRows(sequence, picked),
      );
      expect(relativeDifference(part!, y!.indexSelect(0, rows))).toBeLessThan(1e-12);
      expect(relativeDifference(dPart!, dx!.indexSelect(0, rows))).toBeLessThan(1e-9);
      factors.forEach((factor, index) => {
        expect(relativeDifference(others[index]!, factor)).toBeLessThan(1e-9);
      });
    });
  });

  it.each(CASES)("has the same attention in the rows that are asked for as in all, of $name", (given) => {
    scope(() => {
      const { lora, sequence, layer, tokens } = build({ ...given, kernel: "products" });
      const { end } = sequence.shape.samples[0]!;
      const [input, dy] = [11, 12].map((seed) => randomTensor([tokens, config.hidden], seed)) as [
        Tensor,
        Tensor,
      ];
      for (const first of [1, Math.floor(end / 2), end - 1]) {
        const through = (seen: Sequence, keeps: boolean): Tensor[] => {
          const [y, dx] = [input.clone(), dy.clone()];
          rowsOf(dx, { start: 0, end: first }).zero_();
          for (const { a, b } of lora.modules.values()) [a.gradient, b.gradient].map((each) => each!.zero_());
          SEGMENTS.attention(y, input, dx, layer, seen, keeps);
          const factors = [...lora.modules.values()].flatMap(({ a, b }) => [a.gradient!, b.gradient!]);
          return [rowsOf(y, { start: first, end: tokens }), dx, ...factors.map((factor) => factor.clone())];
        };
        const whole = through(sequence, true);
        for (const keeps of [false, true]) {
          through(askedFrom(sequence, first), keeps).forEach((result, index) => {
            const length = whole[index]!.linalgVectorNorm().item();
            if (length > 0) expect(relativeDifference(result, whole[index]!)).toBeLessThan(1e-12);
            else expect(result.linalgVectorNorm().item()).toBe(0);
          });
        }
      }
    });
  });

  it("names its modules as adapters spell them", () => {
    expect(moduleNames(1)).toContain("layers.0.attention.wqkv");
  });
});
