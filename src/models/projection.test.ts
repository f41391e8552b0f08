import { expect, it } from "vitest";
import { randomTensor, relativeDifference, smallConfig } from "../../tests/helpers/randomModel.ts";
import { oneAxis, ropeTables } from "../nn/attention/rope.ts";
import { denseMatrix } from "../nn/frozen/frozen.ts";
import type { Linear, LoraBranch } from "../nn/linear.ts";
import { rowSource, rowsOf } from "../nn/rows.ts";
import { fromArray, zeros } from "../torch/create.ts";
import { scope, type Tensor } from "../torch/tensor.ts";
import { askedFrom, type Sequence } from "./attentionGroups.ts";
import { attentionBackward_, attentionForward_, type Layer } from "./decoder.ts";
import { familyOf } from "./families.ts";
import type { QkvPart } from "./family.ts";
import { projectRows } from "./projection.ts";

const config = smallConfig({ hidden: 32, heads: 6, kvHeads: 2, headDim: 4 });
const { hidden: C, kvHeads: G, headDim: D } = config;
const Q = config.heads / G;
const RANK = 3;
const SAMPLES = [17, 24];
const TOKENS = 41;
const PICTURES = [{ start: 3, end: 9 }];

/** Rows of the packed linear that make queries, keys or values of all heads, one after the other. */
const ROWS = { q: rowsThatMake("q"), k: rowsThatMake("k"), v: rowsThatMake("v") };
type Part = keyof typeof ROWS;

function rowsThatMake(as: QkvPart["as"]): Int32Array {
  const heads = Array.from({ length: G }, (_, head) => familyOf(config).qkv(config, head)).flat();
  const own = heads.filter((part) => part.as === as);
  return Int32Array.from(
    own.flatMap(({ rows }) => Array.from({ length: rows.end - rows.start }, (_, at) => rows.start + at)),
  );
}

/** Where a kv head's parts come from if queries, keys and values have a linear each. */
function apart(kvHead: number): QkvPart[] {
  const rowsOfHead = (width: number) => ({ start: kvHead * width, end: (kvHead + 1) * width });
  return [
    { linear: "q_proj", rows: rowsOfHead(Q * D), as: "q" },
    { linear: "k_proj", rows: rowsOfHead(D), as: "k" },
    { linear: "v_proj", rows: rowsOfHead(D), as: "v" },
  ];
}

function pick(x: Tensor, part: Part): Tensor {
  return x.indexSelect(0, fromArray(ROWS[part], [ROWS[part].length], { dtype: "int64" }));
}

function branch(a: Tensor, b: Tensor, dropped: boolean): LoraBranch {
  const dropout = dropped ? { probability: 0.3, seed: 9n } : undefined;
  return { a, b, gradA: a.zerosLike(), gradB: b.zerosLike(), scale: 0.7, dropout };
}

/** A layer whose queries, keys and values come from one linear, and the same layer with a linear for each. */
function layers({ plora, dropped }: { plora: number; dropped: boolean }): {
  packed: Layer;
  split: Layer;
  ofPacked: LoraBranch;
  ofSplit: Record<Part, LoraBranch>;
} {
  const outs = (config.heads + 2 * G) * D;
  const weight = randomTensor([outs, C], 1, { scale: 0.3 });
  const branchOf = (outs: number, seed: number) => ({
    a: randomTensor([plora, C], seed, { scale: 0.1 }),
    b: randomTensor([outs, plora], seed + 1, { scale: 0.1 }),
    scale: 1.5,
  });
  const own = plora > 0 ? branchOf(outs, 2) : undefined;
  const [a, b] = [randomTensor([RANK, C], 4, { scale: 0.3 }), randomTensor([outs, RANK], 5, { scale: 0.3 })];
  const ofPacked = branch(a, b, dropped);
  const ofSplit = Object.fromEntries(
    Object.keys(ROWS).map((part) => [part, branch(a, pick(b, part as Part), dropped)]),
  ) as Record<Part, LoraBranch>;
  const cut = (part: Part): Linear => ({
    weight: denseMatrix(pick(weight, part)),
    plora: own && { ...own, b: pick(own.b, part) },
    lora: ofSplit[part],
  });
  const output: Linear = {
    weight: denseMatrix(randomTensor([C, config.heads * D], 6, { scale: 0.3 })),
    plora:
      plora > 0
        ? { ...branchOf(C, 7), a: randomTensor([plora, config.heads * D], 9, { scale: 0.1 }) }
        : undefined,
    lora: undefined,
  };
  const norm = { weight: randomTensor([C], 10), eps: 1e-5 };
  const rest = { attentionNorm: norm, ffnNorm: norm, output, gate: output, up: output, down: output };
  const whole: Linear = { weight: denseMatrix(weight), plora: own, lora: ofPacked };
  return {
    packed: { ...rest, qkv: new Map([["attention.wqkv", whole]]) },
    split: {
      ...rest,
      qkv: new Map([
        ["q_proj", cut("q")],
        ["k_proj", cut("k")],
        ["v_proj", cut("v")],
      ]),
    },
    ofPacked,
    ofSplit,
  };
}

function sequences(given: Partial<Sequence>): { packed: Sequence; split: Sequence } {
  const positions = SAMPLES.flatMap((tokens) => Array.from({ length: tokens }, (_, at) => at));
  const packed: Sequence = {
    rope: ropeTables(oneAxis(Int32Array.from(positions)), config, { dtype: "float64", device: "cpu" }),
    shape: {
      ...{ Q, D, kernel: "products" },
      samples: [
        { start: 0, end: 17 },
        { start: 17, end: TOKENS },
      ],
    },
    ploraRows: PICTURES,
    kvHeads: G,
    qkv: (kvHead) => familyOf(config).qkv(config, kvHead),
    headGroups: 1,
    attentionInput: "kept",
    plora: "apart",
    mlpTileTokens: 512,
    ...given,
  };
  return { packed, split: { ...packed, qkv: apart } };
}

it.each([
  { name: "in one piece", sequence: {}, plora: 2, dropped: false, first: 0 },
  { name: "of a model without PLoRA", sequence: {}, plora: 0, dropped: false, first: 0 },
  {
    name: "in head groups, with the input made again in tiles",
    sequence: { headGroups: 2, attentionInput: "recomputed", mlpTileTokens: 7 } as const,
    ...{ plora: 2, dropped: true, first: 0 },
  },
  { name: "of the last rows alone", sequence: { headGroups: 2 }, plora: 2, dropped: false, first: 11 },
  {
    name: "with PLoRA merged into copies",
    sequence: { plora: "merged", ploraRows: [{ start: 3, end: 38 }] } as const,
    ...{ plora: 128, dropped: false, first: 0 },
  },
])(
  "attention of queries, keys and values from a linear each is that of one packed linear, $name",
  (given) => {
    scope(() => {
      const { packed, split, ofPacked, ofSplit } = layers(given);
      const seen = sequences(given.sequence);
      const [h, dy] = [randomTensor([TOKENS, C], 11), randomTensor([TOKENS, C], 12)] as const;
      if (given.first > 0) rowsOf(dy, { start: 0, end: given.first }).zero_();
      const through = (layer: Layer, whole: Sequence): [y: Tensor, dx: Tensor] => {
        const sequence = given.first > 0 ? askedFrom(whole, given.first) : whole;
        const [y, dx] = [h.clone(), dy.clone()];
        attentionForward_(y, layer, sequence, { input: rowSource(h) });
        attentionBackward_(dx, rowSource(h), layer, sequence);
        return [y, dx];
      };
      const [wanted, found] = [through(packed, seen.packed), through(split, seen.split)];
      for (const [index, tensor] of found.entries())
        expect(relativeDifference(tensor, wanted[index]!)).toBeLessThan(1e-12);
      const parts = Object.keys(ROWS) as Part[];
      for (const part of parts)
        expect(relativeDifference(ofSplit[part].gradB!, pick(ofPacked.gradB!, part))).toBeLessThan(1e-9);
      const sum = zeros([RANK, C], { dtype: "float64" });
      for (const part of parts) sum.add_(ofSplit[part].gradA!);
      expect(relativeDifference(sum, ofPacked.gradA!)).toBeLessThan(1e-9);
    });
  },
);

it("a single row's heads come out packed, from one linear or from three", () => {
  scope(() => {
    const { packed, split } = layers({ plora: 2, dropped: false });
    const seen = sequences({});
    const x = randomTensor([1, C], 13);
    const info = { place: 0, ploraRows: [{ start: 0, end: 1 }] };
    const [wanted, found] = [
      projectRows(x, packed.qkv, seen.packed, info),
      projectRows(x, split.qkv, seen.split, info),
    ];
    expect(found.shape).toEqual([1, G * (Q + 2) * D]);
    expect(relativeDifference(found, wanted)).toBeLessThan(1e-12);
  });
});
