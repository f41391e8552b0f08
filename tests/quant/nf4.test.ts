import { afterAll, describe, expect, it } from "vitest";
import { openSafetensors } from "../../src/checkpoint/files/safetensors.ts";
import { dynamicMap } from "../../src/nn/frozen/dynamicMap.ts";
import { frozenColumns, frozenRows, frozenValues } from "../../src/nn/frozen/frozen.ts";
import { NF4_MAP, quantizeNf4 } from "../../src/nn/frozen/nf4.ts";
import { storedPrecision, storedShapes } from "../../src/nn/frozen/storedNames.ts";
import { quantizedTensors, readQuantized } from "../../src/nn/frozen/storedTensors.ts";
import { scope, type Tensor } from "../../src/torch/tensor.ts";
import { golden } from "../helpers/shared.ts";

/** Made by bitsandbytes. scripts/makeNf4Fixture.py describes the contents. */
const fixture = openSafetensors(golden("nf4/matrices.safetensors"));
const cases = fixture.names
  .filter((name) => name.endsWith(".source"))
  .map((name) => name.replace(".source", ""));
afterAll(() => fixture.close());

const state = (name: string): Record<string, unknown> =>
  JSON.parse(
    Buffer.from(fixture.tensor(`${name}.weight.quant_state.bitsandbytes__nf4`).toBytes()).toString(),
  );

describe("quantising to NF4 as bitsandbytes does", () => {
  it("has its maps", () => {
    scope(() => {
      expect(NF4_MAP).toEqual(fixture.tensor("plain.weight.quant_map").toArray());
      expect(dynamicMap("signed")).toEqual(fixture.tensor("plain.weight.nested_quant_map").toArray());
    });
  });

  it.each(cases)("gives its bytes: %s", (name) => {
    scope(() => {
      const matrix = quantizeNf4(fixture.tensor(`${name}.source`), { device: "cpu" });
      const bytes = (key: string): Uint8Array => fixture.tensor(`${name}.weight${key}`).toBytes();
      expect(matrix.codes.toBytes()).toEqual(bytes(""));
      expect(matrix.absmax.toBytes()).toEqual(bytes(".absmax"));
      expect(matrix.nestedAbsmax.toBytes()).toEqual(bytes(".nested_absmax"));
      expect(matrix.offset).toBe(state(name).nested_offset);
    });
  });

  it.each(cases)("stays beside its CPU library, which rounds absmax by a table: %s", (name) => {
    scope(() => {
      if (name === "constant" || name === "zeros") return; // the CPU library divides 0 by 0 there
      const ours = quantizeNf4(fixture.tensor(`${name}.source`), {
        device: "cpu",
      }).absmax.toArray() as Uint8Array;
      const theirs = fixture.tensor(`${name}.cpu_absmax`).toArray() as Uint8Array;
      const apart = [...ours.keys()].filter((at) => ours[at] !== theirs[at]);
      expect(apart.length).toBeLessThan(0.01 * ours.length + 1);
      for (const at of apart) expect(Math.abs(ours[at]! - theirs[at]!)).toBe(1);
    });
  });

  it.each(cases)("comes back as it reads it: %s", (name) => {
    scope(() => {
      const matrix = quantizeNf4(fixture.tensor(`${name}.source`), { device: "cpu" });
      const expected = fixture.tensor(`${name}.values`);
      expect(frozenValues(matrix, expected).toBytes()).toEqual(expected.toBytes());
    });
  });

  it.each(cases)("has the same values in any window: %s", (name) => {
    scope(() => {
      const matrix = quantizeNf4(fixture.tensor(`${name}.source`), { device: "cpu" });
      const whole = frozenValues(matrix);
      const [rows, columns] = whole.shape as [number, number];
      const cut = (x: Tensor, dim: number, start: number, end: number): Tensor =>
        x.narrow(dim, start, end - start);
      for (const [r0, r1] of [
        [0, 1],
        [1, rows],
        [rows - 1, rows],
      ] as const) {
        for (const [c0, c1] of [
          [0, columns],
          [0, columns / 2],
          [columns / 2, columns],
          [3, columns - 1],
        ] as const) {
          const [start, end] = [Math.floor(c0), Math.ceil(c1)];
          const window = frozenColumns(frozenRows(matrix, { start: r0, end: r1 }), { start, end });
          const expected = cut(cut(whole, 0, r0, r1), 1, start, end);
          expect(frozenValues(window).toBytes()).toEqual(expected.toBytes());
        }
      }
    });
  });
});

describe("the layout of bitsandbytes' checkpoints", () => {
  it.each(cases)("is read, and written again byte for byte: %s", (name) => {
    scope(() => {
      const source = fixture.tensor(`${name}.source`);
      const weight = `${name}.weight`;
      const [rows, columns] = source.shape as [number, number];
      expect(storedPrecision(weight, fixture)).toBe("nf4");
      for (const [part, shape] of storedShapes(weight, [rows, columns], fixture))
        expect(fixture.entry(part).shape).toEqual(shape);
      const matrix = readQuantized(weight, [rows, columns], "nf4", fixture, { device: "cpu", copy: true });
      const expected = fixture.tensor(`${name}.values`);
      expect(frozenValues(matrix, expected).toBytes()).toEqual(expected.toBytes());
      const written = quantizedTensors(weight, matrix, source.dtype);
      const parts = fixture.names.filter((part) => part.startsWith(weight));
      expect(written.map(([part]) => part).sort()).toEqual([...parts].sort());
      for (const [part, tensor] of written) {
        expect(tensor.shape, part).toEqual(fixture.entry(part).shape);
        expect(tensor.toBytes(), part).toEqual(fixture.tensor(part).toBytes());
      }
    });
  });
});
