import { describe, expect, it } from "vitest";
import { countedPositions, positionAfter, positionOfText } from "./positions.ts";

const none = { imageSlices: [], images: [] };

describe("positions", () => {
  it("are counted from 0 in every sample", () => {
    const { axes, values } = countedPositions({ ...none, sampleTokens: [3, 1, 2] });
    expect([axes, ...values]).toEqual([1, 0, 1, 2, 0, 0, 1]);
  });

  it("of what follows a sample lie beyond all of its own, along every axis", () => {
    expect(positionAfter(countedPositions({ ...none, sampleTokens: [5] }))).toBe(5);
    expect(positionAfter(countedPositions({ ...none, sampleTokens: [] }))).toBe(0);
    const threeAxes = { axes: 3, values: Int32Array.of(0, 1, 1, 1, 0, 1, 2, 3, 0, 1, 1, 2) } as const;
    expect(positionAfter(threeAxes)).toBe(4); // four rows, of which three are a picture of height 3
    expect([...positionOfText(4, threeAxes).values]).toEqual([4, 4, 4]);
  });
});
