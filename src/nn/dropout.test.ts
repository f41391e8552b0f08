import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { ones, randn } from "../torch/create.ts";
import { scope, type Tensor } from "../torch/tensor.ts";
import {
  addDropped_,
  type DropoutPlace,
  dropped,
  forEachDropoutTile,
  mixSeed,
  type RowPlace,
} from "./dropout.ts";
import { columnsOf, rowsOf } from "./rows.ts";

const dropout = { probability: 0.25, seed: 42n };
const [ROWS, COLUMNS] = [300, 21] as const;

function maskOf(
  shape: readonly number[],
  { place = 0, column = 0 }: Partial<DropoutPlace> = {},
  of = dropout,
) {
  return scope(() => dropped(ones(shape), of, { place, column }).toFloat32Array());
}

const whole = maskOf([ROWS, COLUMNS]);
const window = fc.record({
  row: fc.nat(ROWS - 1),
  column: fc.nat(COLUMNS - 1),
  rows: fc.integer({ min: 1, max: ROWS }),
  columns: fc.integer({ min: 1, max: COLUMNS }),
});

describe("dropped", () => {
  it("gives any rows and columns the mask that they have in the whole", () => {
    fc.assert(
      fc.property(window, ({ row, column, ...most }) => {
        const [rows, columns] = [Math.min(most.rows, ROWS - row), Math.min(most.columns, COLUMNS - column)];
        const wanted = Array.from({ length: rows }, (_, at) => {
          const start = (row + at) * COLUMNS + column;
          return [...whole.subarray(start, start + columns)];
        });
        expect([...maskOf([rows, columns], { place: row, column })]).toEqual(wanted.flat());
      }),
    );
  });

  it("gives picked rows the mask that they have in the whole", () => {
    fc.assert(
      fc.property(fc.uniqueArray(fc.nat(ROWS - 1), { minLength: 1 }), (rows) => {
        const place = Int32Array.from(rows.toSorted((a, b) => a - b));
        const wanted = [...place].flatMap((row) => [...whole.slice(row * COLUMNS, (row + 1) * COLUMNS)]);
        expect([...maskOf([place.length, COLUMNS], { place })]).toEqual(wanted);
      }),
    );
  });

  it("reads rows that lie apart", () => {
    scope(() => {
      const x = randn([40, 30]);
      const part = columnsOf(x, { start: 7, end: 28 });
      const at = { place: 3, column: 5 };
      expect(dropped(part, dropout, at).equal(dropped(part.contiguous(), dropout, at))).toBe(true);
    });
  });

  it("drops its share, and independently of what is near", () => {
    const [rows, columns] = [2000, 64];
    const lost = [...maskOf([rows, columns])].map((kept) => (kept === 0 ? 1 : 0));
    const share = (of: number[]): number => of.reduce<number>((sum, each) => sum + each, 0) / of.length;
    expect(share(lost)).toBeCloseTo(0.25, 2);
    for (const apart of [1, 2, 3, 4, columns, 4 * columns]) {
      const both = lost.slice(apart).map((each, at) => each * lost[at]!);
      expect(share(both), `elements ${apart} apart`).toBeCloseTo(0.25 ** 2, 2);
    }
    const other = [...maskOf([rows, columns], {}, { ...dropout, seed: 43n })];
    expect(share(other.map((kept, at) => (kept === 0 ? lost[at]! : 0)))).toBeCloseTo(0.25 ** 2, 2);
  });

  it("keeps the mean", () => {
    const kept = whole.filter((each) => each !== 0);
    expect(new Set(kept)).toEqual(new Set([Math.fround(1 / 0.75)]));
  });

  it.each([0, 0.999_999_9])("takes a probability of %d", (probability) => {
    const kept = maskOf([50, 50], {}, { probability, seed: 1n }).filter((each) => each !== 0);
    expect(kept.length).toBe(probability === 0 ? 2500 : 0);
  });

  it("differs by seed", () => {
    expect(maskOf([8, 8], {}, { ...dropout, seed: mixSeed(42n, 1) })).not.toEqual(maskOf([8, 8]));
  });
});

describe("addDropped_", () => {
  it("adds what dropped gives", () => {
    scope(() => {
      const [into, x] = [randn([30, COLUMNS]), randn([30, COLUMNS])];
      const at = { place: 11, column: 2 };
      const wanted = into.add(dropped(x, dropout, at));
      addDropped_(into, x, dropout, at);
      expect(into.allclose(wanted)).toBe(true);
    });
  });
});

describe("forEachDropoutTile", () => {
  const columns = 2 ** 20; // eight rows a tile
  const tilesOf = (rows: number, place: RowPlace): [number, number, RowPlace][] => {
    const seen: [number, number, RowPlace][] = [];
    scope(() => {
      const x: Tensor = ones([1, 1]).expand([rows, columns]);
      forEachDropoutTile(x, dropout, place, ({ start, end }, at) => seen.push([start, end, at]));
    });
    return seen;
  };

  it("says where each tile's rows lie in the micro-batch", () => {
    expect(tilesOf(19, 100)).toEqual([
      [0, 8, 100],
      [8, 16, 108],
      [16, 19, 116],
    ]);
    const picked = Int32Array.from({ length: 10 }, (_, row) => 3 * row);
    expect(tilesOf(10, picked)).toEqual([
      [0, 8, picked.subarray(0, 8)],
      [8, 10, picked.subarray(8)],
    ]);
  });

  it("takes all at once where nothing is dropped", () => {
    scope(() => {
      const x = ones([1, 1]).expand([19, columns]);
      forEachDropoutTile(x, undefined, 5, (rows, place) => {
        expect([rows, place]).toEqual([{ start: 0, end: 19 }, 5]);
        expect(rowsOf(x, rows).shape).toEqual([19, columns]);
      });
    });
  });
});
