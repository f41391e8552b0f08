/** Places of a picture's patches: rotary positions, and learned ones between the points of a grid. */
import type { PatchGrid } from "../../data/pictures/patches/patchGrid.ts";
import type { Rope } from "../../nn/attention/rope.ts";
import { type Rows, rowCount } from "../../nn/rows.ts";
import { fromArray } from "../../torch/create.ts";
import { scope, type Tensor } from "../../torch/tensor.ts";
import type { EncodeOptions } from "../family.ts";
import type { PatchTowerSizes } from "./towerWeights.ts";

/** Base of the rotary positions of patches. */
const ROPE_THETA = 10_000;

/** The patches of a picture, (P), in the tower's order: that of tokens, by their place in the picture. */
export interface PatchOrder {
  picture: Pick<PatchGrid, "rows" | "columns">;
  mergeSide: number;
  places: Int32Array;
}

/** Returns the row and the column of a patch, by its number in the tower's order. */
function placeOf({ picture, mergeSide, places }: PatchOrder, patch: number): [row: number, column: number] {
  const place = places[Math.floor(patch / mergeSide ** 2)]!;
  const within = patch % mergeSide ** 2;
  return [
    Math.floor(place / picture.columns) * mergeSide + Math.floor(within / mergeSide),
    (place % picture.columns) * mergeSide + (within % mergeSide),
  ];
}

/**
 * Returns the tables of rotary positions, (P, 1, 1, D/2) in float32, or in float64 for such a model: the
 * first half of a head's pairs turns with the patch's row, the others with its column, at the same
 * frequencies.
 */
export function ropeOfPatches(
  { hidden, heads }: PatchTowerSizes,
  order: PatchOrder,
  { dtype, device }: EncodeOptions,
): Rope {
  return scope(() => {
    const frequencies = hidden / heads / 4;
    const patches = order.places.length * order.mergeSide ** 2;
    const rowAndColumn = new Float32Array(2 * patches);
    for (let patch = 0; patch < patches; patch++) rowAndColumn.set(placeOf(order, patch), 2 * patch);
    const inverse = Float32Array.from(
      { length: frequencies },
      (_, pair) => 1 / ROPE_THETA ** (pair / frequencies),
    );
    const wide = dtype === "float64" ? dtype : "float32";
    const angle = fromArray(rowAndColumn, [patches, 2, 1], { device })
      .mul(fromArray(inverse, [1, 1, frequencies], { device }))
      .view([patches, 1, 1, 2 * frequencies]);
    return { cos: angle.cos().to({ dtype: wide }), sin: angle.sin().to({ dtype: wide }) };
  });
}

/**
 * Returns the learned positions of some patches, (p, W): the picture's corners are the grid's corners, and a
 * patch between four points of the grid has their mean, weighted by how near they are. table: (side², W).
 */
export function learnedPositions(table: Tensor, side: number, order: PatchOrder, patches: Rows): Tensor {
  return scope(() => {
    const { picture, mergeSide } = order;
    const [rows, columns] = [picture.rows * mergeSide, picture.columns * mergeSide];
    const count = rowCount(patches);
    const points = new BigInt64Array(4 * count);
    const shares = new Float32Array(4 * count);
    for (let at = 0; at < count; at++) {
      const [row, column] = placeOf(order, patches.start + at);
      const [down, across] = [pointsAround(row, rows, side), pointsAround(column, columns, side)];
      for (const [corner, [y, x]] of CORNERS.entries()) {
        points[corner * count + at] = BigInt(down[y].point * side + across[x].point);
        shares[corner * count + at] = down[y].share * across[x].share;
      }
    }
    const { dtype, device } = table;
    const index = fromArray(points, [4 * count], { dtype: "int64", device });
    const weights = fromArray(shares, [4 * count, 1], { device }).to({ dtype });
    return table.indexSelect(0, index).mul_(weights).view([4, count, table.shape[1]!]).sumDim([0]);
  });
}

const CORNERS = [
  [0, 0],
  [0, 1],
  [1, 0],
  [1, 1],
] as const;

type Neighbour = { point: number; share: number };

/** Returns the points of a grid's side on either side of number `at` of `count`, and their shares. */
function pointsAround(at: number, count: number, side: number): [Neighbour, Neighbour] {
  const position = count > 1 ? (at * (side - 1)) / (count - 1) : 0;
  const before = Math.floor(position);
  const share = position - before;
  return [
    { point: before, share: 1 - share },
    { point: Math.min(before + 1, side - 1), share },
  ];
}
