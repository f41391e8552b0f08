import { describe, expect, it } from "vitest";
import { scope } from "../../torch/tensor.ts";
import { oneAxis, type RopeForm, ropeTables } from "./rope.ts";

const FORM: RopeForm = { headDim: 8, ropeTheta: 1e4, maxPositions: 16 };

const upTo = (tokens: number): number[] => Array.from({ length: tokens }, (_, at) => at);

/** Returns the cosines of each row by the definition: of position * theta^(-2 i / D). */
function expected(positions: number[], theta: (row: number) => number, stretch = 1): number[] {
  return positions.flatMap((position, row) =>
    [0, 1, 2, 3].map((pair) => Math.cos((position / stretch) * theta(row) ** ((-2 * pair) / 8))),
  );
}

function cosines(positions: number[], form: RopeForm): number[] {
  let values: number[] = [];
  scope(() => {
    const { cos, sin } = ropeTables(oneAxis(Int32Array.from(positions)), form, {
      dtype: "float32",
      device: "cpu",
    });
    values = [...cos.toFloat32Array()];
    const ones = cos.mul(cos).add(sin.mul(sin)).toFloat32Array();
    for (const one of ones) expect(one).toBeCloseTo(1, 5);
  });
  return values;
}

function expectClose(found: number[], wanted: number[]): void {
  expect(found).toHaveLength(wanted.length);
  for (const [at, value] of wanted.entries()) expect(found[at]).toBeCloseTo(value, 4);
}

describe("rotary tables", () => {
  it("without scaling are the same in samples of any length", () => {
    expectClose(
      cosines([...upTo(40), ...upTo(3)], FORM),
      expected([...upTo(40), ...upTo(3)], () => 1e4),
    );
  });

  it("of linear scaling divide every position by the factor", () => {
    const form: RopeForm = { ...FORM, ropeScaling: { kind: "linear", factor: 8 } };
    expectClose(
      cosines(upTo(40), form),
      expected(upTo(40), () => 1e4, 8),
    );
  });

  it.each([1, 2.5])(
    "of dynamic scaling by %d have the larger theta of a sample's own length beyond the model's",
    (factor) => {
      const form: RopeForm = { ...FORM, ropeScaling: { kind: "dynamic", factor } };
      const ntk = (tokens: number): number => 1e4 * ((factor * tokens) / 16 - (factor - 1)) ** (8 / 6);
      const positions = [...upTo(16), ...upTo(40), ...upTo(3), ...upTo(17)];
      const thetaOf = (row: number): number =>
        row < 16 ? 1e4 : row < 56 ? ntk(40) : row < 59 ? 1e4 : ntk(17);
      expectClose(cosines(positions, form), expected(positions, thetaOf));
      expectClose(
        cosines([5, 6, 7], form), // later positions only, as when an answer is generated
        expected([5, 6, 7], () => 1e4),
      );
    },
  );

  describe("of three axes", () => {
    const axisOfPair = [0, 1, 2, 0];
    const tables = (values: number[], form: RopeForm): number[] => {
      let cosines: number[] = [];
      scope(() => {
        const given = { axes: 3, values: Int32Array.from(values) } as const;
        cosines = [...ropeTables(given, form, { dtype: "float32", device: "cpu" }).cos.toFloat32Array()];
      });
      return cosines;
    };

    it("turn each pair by the position on its own axis", () => {
      const [time, height, width] = [
        [0, 1, 1, 1, 1, 3],
        [0, 1, 1, 2, 2, 3],
        [0, 1, 2, 1, 2, 3],
      ] as const;
      const wanted = time.flatMap((_, row) =>
        axisOfPair.map((axis, pair) =>
          Math.cos([time, height, width][axis]![row]! * 1e4 ** ((-2 * pair) / 8)),
        ),
      );
      expectClose(tables([...time, ...height, ...width], { ...FORM, axisOfPair }), wanted);
    });

    it("are those of one axis where all three are alike", () => {
      const counted = [...upTo(9), ...upTo(4)];
      expect(tables([...counted, ...counted, ...counted], { ...FORM, axisOfPair })).toEqual(
        cosines(counted, FORM),
      );
    });

    it("need an axis for each pair", () => {
      expect(() => tables([0, 0, 0], FORM)).toThrow(/an axis for each pair/);
    });
  });
});
