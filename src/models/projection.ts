/**
 * Queries, keys and values of a layer's normalised input, a group of kv heads at a time, and their backward.
 * They come from one linear or from several, as the family's table says. If only the last rows are needed,
 * queries are of those rows; keys and values are of all rows.
 */
import type { Projected } from "../nn/attention/attention.ts";
import {
  addInputGradient_,
  addLoraInnerGradients_,
  type Linear,
  type LowRank,
  linearForward,
  linearInto_,
  loraOuterGradient,
  lowRank,
  lowRankRows,
  outputSlice,
  type RowInfo,
  zeroLowRank,
} from "../nn/linear.ts";
import { type RmsNorm, rmsNorm, rmsNormInto } from "../nn/norm.ts";
import { columnsOf, forEachPart, type RowSource, type Rows, rowCount, rowsOf, shifted } from "../nn/rows.ts";
import { empty } from "../torch/create.ts";
import { type Category, category } from "../torch/device.ts";
import { scope, type Tensor } from "../torch/tensor.ts";
import { exchanged, type HeadGroup, type Sequence } from "./attentionGroups.ts";
import type { LinearName, QkvPart } from "./family.ts";
import { forEachTile, type MlpRows, tileInfo } from "./tiles.ts";

/** Attention's normalised input, (T, C), in tiles of rows. */
export interface NormalizedInput {
  tokens: number;
  tileTokens: number;
  /** The tile's rows, (t, C); h: the same rows of the input, where they are at hand. */
  rows(tile: Rows, h?: Tensor): Tensor;
}

/** Returns the input held in one piece, or made again for each tile. like: any (T, C) of its dtype. */
export function normalizedInput(
  input: RowSource,
  like: Tensor,
  attentionNorm: RmsNorm,
  sequence: Sequence,
  holds: boolean,
): NormalizedInput {
  const { tokens } = input;
  const tileTokens = sequence.mlpTileTokens;
  if (!holds) return { tokens, tileTokens, rows: (tile, h = input.rows(tile)) => rmsNorm(h, attentionNorm) };
  const x = like.emptyLike(); // (T, C)
  forEachTile(tokens, sequence, (tile) => rmsNormInto(rowsOf(x, tile), input.rows(tile), attentionNorm));
  return { tokens, tileTokens: tokens, rows: (tile) => rowsOf(x, tile) };
}

/** The linears that make queries, keys and values, by name. */
export type Linears = ReadonlyMap<LinearName, Linear>;

/** The inner products of these linears' low-rank branches, of all rows. */
export type Inner = ReadonlyMap<LinearName, LowRank>;

/** Gradients of LoRA's inner products, (T, rank), of the linears that have LoRA. */
export type InnerGradients = ReadonlyMap<LinearName, Tensor>;

/** Returns the inner products of all rows; like: any tensor of the compute dtype. */
export function inputLowRank(x: NormalizedInput, qkv: Linears, sequence: Sequence, like: Tensor): Inner {
  const { ploraRows } = sequence;
  const inner = new Map(
    [...qkv].map(
      ([name, linear]) => [name, zeroLowRank(x.tokens, linear, { place: 0, ploraRows }, like)] as const,
    ),
  );
  forEachTile(x.tokens, { ...sequence, mlpTileTokens: x.tileTokens }, (tile) => {
    const input = x.rows(tile);
    for (const [name, linear] of qkv) {
      const rows = lowRankRows(inner.get(name)!, ploraRows, tile);
      const part = lowRank(input, linear, tileInfo(sequence, tile));
      if (part.lora) rows.lora?.copy_(part.lora);
      rows.plora.forEach((branch, index) => {
        branch.copy_(part.plora[index]!);
      });
    }
  });
  return inner;
}

/** Returns room for the gradients of LoRA's inner products, filled with zeros. */
export function innerGradients(inner: Inner): InnerGradients {
  const gradients = new Map<LinearName, Tensor>();
  for (const [name, { lora }] of inner) if (lora) gradients.set(name, lora.zerosLike());
  return gradients;
}

/**
 * Adds to dx the gradients that a tile's inner products give its input. LoRA's gradients accumulate. x, dx:
 * (t, C).
 */
export function addInnerGradients_(
  dx: Tensor,
  dInner: InnerGradients,
  x: Tensor,
  qkv: Linears,
  tile: Rows,
  { first = 0 }: Pick<Sequence, "first">,
): void {
  for (const [name, gradient] of dInner)
    addLoraInnerGradients_({ dx }, rowsOf(gradient, tile), x, qkv.get(name)!.lora!, first + tile.start);
}

/** Rows of the input from which the same outputs are made, and these outputs. */
interface Band {
  rows: Rows;
  seen: MlpRows;
  columns: number;
  strips: PlacedStrip[];
}

/** Rows of a linear, and the columns that they make. */
interface Strip {
  linear: LinearName;
  rows: Rows;
  columns: Rows;
}

/** A strip of a group that several ranks share. */
interface PlacedStrip extends Strip {
  /** First row of the rank's part in the group's outputs. */
  firstRow: number;
}

/**
 * Returns the packed heads of all rows; or queries of the rows that are needed, and keys with values of all
 * rows.
 */
function bandsOf(group: HeadGroup, sequence: Sequence, tokens: number): Band[] {
  const { asked } = sequence;
  const all = { start: 0, end: tokens };
  const band = (rows: Rows, seen: MlpRows, parts: readonly QkvPart["as"][]): Band => {
    const ofRanks = group.map(({ heads }) => stripsOf(heads, sequence, parts));
    const strips = ofRanks.flatMap((own, rank) =>
      own.strips.map((strip) => ({ ...strip, firstRow: rank * rowCount(rows) })),
    );
    return { rows, seen, columns: ofRanks[0]!.columns, strips };
  };
  if (!asked) return [band(all, sequence, ["q", "k", "v"])];
  return [band({ start: asked.first, end: tokens }, asked, ["q"]), band(all, sequence, ["k", "v"])];
}

/**
 * Returns the strips that make these parts of each kv head, side by side. Strips whose rows and columns
 * follow on one another are joined.
 */
function stripsOf(
  heads: Rows,
  { qkv, shape: { Q, D } }: Pick<Sequence, "qkv" | "shape">,
  parts: readonly QkvPart["as"][],
): { columns: number; strips: Strip[] } {
  const strips: Strip[] = [];
  let column = 0;
  for (let head = heads.start; head < heads.end; head++) {
    const own = qkv(head);
    for (const as of parts) {
      const { linear, rows } = own.find((part) => part.as === as)!;
      const columns = { start: column, end: column + (as === "q" ? Q * D : D) };
      const before = strips.at(-1);
      if (before?.linear === linear && before.rows.end === rows.start) {
        before.rows = { start: before.rows.start, end: rows.end };
        before.columns = { start: before.columns.start, end: columns.end };
      } else strips.push({ linear, rows, columns });
      column = columns.end;
    }
  }
  return { columns: column, strips };
}

/**
 * Returns a group's queries, keys and values; their memory counts as asked for. Of a group that several ranks
 * share, all rows of the rank's own heads.
 */
export function project(
  x: NormalizedInput,
  inner: Inner,
  qkv: Linears,
  group: HeadGroup,
  sequence: Sequence,
  keptAs: Category,
): Projected {
  const { dtype, device } = sequence.rope.cos;
  const projectBand = ({ rows, seen, columns, strips }: Band): Tensor => {
    const u = category(keptAs, () => empty([group.length * rowCount(rows), columns], { dtype, device }));
    const parts = strips.map((strip) => ({
      ...strip,
      part: outputSlice(qkv.get(strip.linear)!, strip.rows),
    }));
    forEachTile(rowCount(rows), { ...seen, mlpTileTokens: x.tileTokens }, (tile) => {
      const input = x.rows(shifted(tile, rows.start));
      forEachStrip(parts, ({ linear, columns: own, part, firstRow }) => {
        const into = rowsOf(u, shifted(tile, firstRow));
        const ofBand = lowRankRows(inner.get(linear)!, sequence.ploraRows, rows);
        const ofTile = lowRankRows(ofBand, seen.ploraRows, tile);
        linearInto_(columnsOf(into, own), input, part, tileInfo(seen, tile), ofTile);
      });
    });
    return category(keptAs, () => exchanged(u, sequence));
  };
  const made = bandsOf(group, sequence, x.tokens).map((band) => scope(() => projectBand(band)));
  return made as [Tensor] | [Tensor, Tensor];
}

/** Returns the strips that make the queries, keys and values of all heads, packed. */
export function packedStrips(
  sequence: Pick<Sequence, "kvHeads" | "qkv" | "shape">,
): ReturnType<typeof stripsOf> {
  return stripsOf({ start: 0, end: sequence.kvHeads }, sequence, ["q", "k", "v"]);
}

/** Returns the queries, keys and values of a few rows, all heads packed. x: (t, C) -> (t, G * (Q+2) * D). */
export function projectRows(
  x: Tensor,
  qkv: Linears,
  sequence: Pick<Sequence, "kvHeads" | "qkv" | "shape">,
  info: RowInfo,
): Tensor {
  const { columns, strips } = packedStrips(sequence);
  if (strips.length === 1) return linearForward(x, qkv.get(strips[0]!.linear)!, info);
  return scope(() => {
    const { dtype, device } = x;
    const u = empty([x.shape[0]!, columns], { dtype, device });
    forEachStrip(strips, ({ linear, rows, columns: own }) => {
      const part = outputSlice(qkv.get(linear)!, rows);
      linearInto_(columnsOf(u, own), x, part, info, lowRank(x, part, info));
    });
    return u;
  });
}

/**
 * Adds to dx, (T, C), and dInner the gradients that follow from du, the gradient of what `project` returned.
 * LoRA's gradients accumulate.
 */
export function addProjectionGradients_(
  { dx, dInner }: { dx: Tensor; dInner: InnerGradients },
  du: Projected,
  inner: Inner,
  qkv: Linears,
  group: HeadGroup,
  sequence: Sequence,
): void {
  bandsOf(group, sequence, dx.shape[0]!).forEach(({ rows, seen, strips }, band) => {
    scope(() => {
      const duRows = exchanged(du[band]!, sequence);
      const dxRows = rowsOf(dx, rows);
      forEachStrip(strips, (strip) => {
        const part = outputSlice(qkv.get(strip.linear)!, strip.rows);
        const own = columnsOf(
          rowsOf(duRows, shifted({ start: 0, end: rowCount(rows) }, strip.firstRow)),
          strip.columns,
        );
        const { lora } = inner.get(strip.linear)!;
        if (part.lora && lora) {
          const dLora = rowsOf(dInner.get(strip.linear)!, rows);
          dLora.add_(loraOuterGradient(own, rowsOf(lora, rows), part.lora));
        }
        addInputGradient_(dxRows, own, part, { place: seen.first ?? 0, ploraRows: seen.ploraRows });
      });
    });
  });
}

/** Calls body for each strip in a scope of its own. Strips of as many rows of the same linear are alike. */
function forEachStrip<S extends Strip>(strips: readonly S[], body: (strip: S) => void): void {
  forEachPart(
    strips,
    ({ linear, rows }) => `${linear} ${rowCount(rows)}`,
    (strip) => {
      scope(() => body(strip));
    },
  );
}
