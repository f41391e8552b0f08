/**
 * What wqkv makes of a layer's normalised input, a group of kv heads at a time, and the way back. Where only the last rows are asked for,
 * queries are made of those alone; keys and values are of all rows.
 */
import type { Projected } from "../nn/attention/attention.ts";
import {
  addInputGradient_,
  type Linear,
  type LowRank,
  linearInto_,
  loraOuterGradient,
  lowRank,
  lowRankRows,
  outputSlice,
  zeroLowRank,
} from "../nn/linear.ts";
import { type RmsNorm, rmsNorm, rmsNormInto } from "../nn/norm.ts";
import { columnsOf, forEachPart, type RowSource, type Rows, rowCount, rowsOf } from "../nn/rows.ts";
import { empty } from "../torch/create.ts";
import { type Category, category } from "../torch/device.ts";
import { scope, type Tensor } from "../torch/tensor.ts";
import type { HeadGroup, Sequence } from "./attentionGroups.ts";
import { forEachTile, type MlpRows, tileInfo } from "./tiles.ts";

/** Attention's normalised input, (T, C), in tiles of rows. */
export interface NormalizedInput {
  tokens: number;
  tileTokens: number;
  /** The tile's rows, (t, C); h: the same rows of the input, where they are at hand. */
  rows(tile: Rows, h?: Tensor): Tensor;
}

/** Held in one piece, or made again for each tile that is asked for. like: any (T, C) of its dtype. */
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

/** The inner products of wqkv's low-rank branches, of all rows. */
export function inputLowRank(x: NormalizedInput, wqkv: Linear, sequence: Sequence): LowRank {
  const { ploraRows } = sequence;
  const inner = zeroLowRank(x.tokens, wqkv, { place: 0, ploraRows });
  forEachTile(x.tokens, { ...sequence, mlpTileTokens: x.tileTokens }, (tile) => {
    const rows = lowRankRows(inner, ploraRows, tile);
    const part = lowRank(x.rows(tile), wqkv, tileInfo(sequence, tile));
    if (part.lora) rows.lora?.copy_(part.lora);
    rows.plora.forEach((branch, index) => {
      branch.copy_(part.plora[index]!);
    });
  });
  return inner;
}

/** Rows of the input that the same outputs are made of, and these outputs. */
interface Band {
  rows: Rows;
  seen: MlpRows;
  columns: number;
  strips: Strip[];
}

/** Rows of wqkv, and the columns that they make. */
interface Strip {
  rows: Rows;
  columns: Rows;
}

/** Packed heads of all rows; or queries of those that are asked for, and keys with values of all. A strip is a kv head's. */
function bandsOf({ heads, qkvRows }: HeadGroup, sequence: Sequence, tokens: number): Band[] {
  const { asked, shape } = sequence;
  const all = { start: 0, end: tokens };
  const columns = rowCount(qkvRows);
  if (!asked)
    return [
      {
        rows: all,
        seen: sequence,
        columns,
        strips: [{ rows: qkvRows, columns: { start: 0, end: columns } }],
      },
    ];
  const { Q, D } = shape;
  const band = (rows: Rows, seen: MlpRows, from: number, width: number): Band => ({
    ...{ rows, seen, columns: rowCount(heads) * width },
    strips: Array.from({ length: rowCount(heads) }, (_, head) => {
      const start = qkvRows.start + head * (Q + 2) * D + from;
      return {
        rows: { start, end: start + width },
        columns: { start: head * width, end: (head + 1) * width },
      };
    }),
  });
  return [band({ start: asked.first, end: tokens }, asked, 0, Q * D), band(all, sequence, Q * D, 2 * D)];
}

/** The group's slice of wqkv; the results' memory counts as asked for. */
export function project(
  x: NormalizedInput,
  inner: LowRank,
  wqkv: Linear,
  group: HeadGroup,
  sequence: Sequence,
  keptAs: Category,
): Projected {
  const { dtype, device } = wqkv.plora.b;
  const made = bandsOf(group, sequence, x.tokens).map(({ rows, seen, columns, strips }) => {
    const u = category(keptAs, () => empty([rowCount(rows), columns], { dtype, device }));
    const ofBand = lowRankRows(inner, sequence.ploraRows, rows);
    const parts = strips.map((strip) => ({ columns: strip.columns, linear: outputSlice(wqkv, strip.rows) }));
    forEachTile(rowCount(rows), { ...seen, mlpTileTokens: x.tileTokens }, (tile) => {
      const input = x.rows(shifted(tile, rows.start));
      const ofTile = lowRankRows(ofBand, seen.ploraRows, tile);
      const into = rowsOf(u, tile);
      forEachStrip(parts, ({ columns: own, linear }) => {
        linearInto_(columnsOf(into, own), input, linear, tileInfo(seen, tile), ofTile);
      });
    });
    return u;
  });
  return made as [Tensor] | [Tensor, Tensor];
}

/** dx, (T, C), and dInner, (T, rank), += what du, the gradient of a group's projection, says of them; LoRA's gradients accumulate. */
export function addProjectionGradients_(
  { dx, dInner }: { dx: Tensor; dInner: Tensor | undefined },
  du: Projected,
  inner: LowRank,
  wqkv: Linear,
  group: HeadGroup,
  sequence: Sequence,
): void {
  bandsOf(group, sequence, dx.shape[0]!).forEach(({ rows, seen, strips }, band) => {
    scope(() => {
      const dxRows = rowsOf(dx, rows);
      const { lora } = inner;
      const [innerRows, dInnerRows] = [lora && rowsOf(lora, rows), dInner && rowsOf(dInner, rows)];
      forEachStrip(strips, (strip) => {
        const part = outputSlice(wqkv, strip.rows);
        const own = columnsOf(du[band]!, strip.columns);
        if (part.lora && innerRows) dInnerRows?.add_(loraOuterGradient(own, innerRows, part.lora));
        addInputGradient_(dxRows, own, part, { place: seen.first ?? 0, ploraRows: seen.ploraRows });
      });
    });
  });
}

/** Calls body for each strip in a scope of its own; all are alike. */
function forEachStrip<S>(strips: readonly S[], body: (strip: S) => void): void {
  forEachPart(
    strips,
    () => "strip",
    (strip) => {
      scope(() => body(strip));
    },
  );
}

function shifted({ start, end }: Rows, by: number): Rows {
  return { start: start + by, end: end + by };
}
