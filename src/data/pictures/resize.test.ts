import { createHash } from "node:crypto";
import fc from "fast-check";
import { expect, test } from "vitest";
import { type Raster, resizeBilinear } from "./resize.ts";

// Computed by Pillow 13.0.0 from noise(width, height, seed): source and target size, seed, start of SHA-256.
// biome-ignore format: columns line up
const PILLOW = [
  [500, 311, 1008, 627, 1, "388d8ecaa80e715e"],
  [61, 47, 336, 258, 2, "5eaf2e76c6e7f1e7"],
  [37, 29, 336, 263, 3, "3e4f681260908f7a"],
  [640, 480, 336, 252, 4, "40b3cbe2bfdafb57"],
  [3, 2, 336, 224, 5, "54fd69bca7301f8b"],
  [1920, 1080, 672, 378, 6, "d7e219399a72324c"],
  [1200, 100, 1344, 112, 7, "d1cb9ab35a00fd9c"],
  [1, 1, 336, 336, 8, "8946edb26b020b15"],
  [337, 336, 336, 335, 9, "70efd21cdc89efda"],
  [700, 699, 672, 671, 10, "95e5553c4f1b26af"],
  [4000, 9, 672, 1, 11, "1790620597114879"],
  [1000, 1000, 13, 7, 12, "61da4c0589851312"],
] as const;

test.each(PILLOW)(
  "%i x %i to %i x %i equals Pillow's pixels",
  (sourceWidth, sourceHeight, width, height, seed, digest) => {
    const { pixels } = resizeBilinear(
      noise(sourceWidth, sourceHeight, seed),
      { width, height },
      "horizontal first",
    );
    expect(createHash("sha256").update(pixels).digest("hex").slice(0, 16)).toBe(digest);
  },
);

test("a resize to the same size changes nothing", () => {
  fc.assert(
    fc.property(length, length, fc.nat(), (width, height, seed) => {
      const picture = noise(width, height, seed);
      expect(resizeBilinear(picture, { width, height }, "horizontal first")).toEqual(picture);
    }),
  );
});

test("a picture of one colour keeps it at any size", () => {
  fc.assert(
    fc.property(length, length, length, length, fc.nat(255), (width, height, newWidth, newHeight, value) => {
      const picture = { width, height, pixels: new Uint8Array(width * height * 3).fill(value) };
      const { pixels } = resizeBilinear(picture, { width: newWidth, height: newHeight }, "vertical first");
      expect(pixels).toEqual(new Uint8Array(newWidth * newHeight * 3).fill(value));
    }),
  );
});

test("no pixel leaves the range of its source", () => {
  fc.assert(
    fc.property(length, length, length, length, fc.nat(), (width, height, newWidth, newHeight, seed) => {
      const picture = noise(width, height, seed);
      const { pixels } = resizeBilinear(picture, { width: newWidth, height: newHeight }, "horizontal first");
      expect(Math.min(...pixels)).toBeGreaterThanOrEqual(Math.min(...picture.pixels));
      expect(Math.max(...pixels)).toBeLessThanOrEqual(Math.max(...picture.pixels));
    }),
  );
});

const length = fc.integer({ min: 1, max: 40 });

function noise(width: number, height: number, seed: number): Raster {
  const pixels = Uint8Array.from(
    { length: width * height * 3 },
    (_, i) => Math.imul(i + seed, 2_654_435_761) >>> 24,
  );
  return { width, height, pixels };
}
