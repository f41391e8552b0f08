import { readFileSync } from "node:fs";
import fc from "fast-check";
import sharp from "sharp";
import { expect, test } from "vitest";
import { floats, keepStride, readFixture } from "../../../../tests/helpers/fixtures.ts";
import { golden } from "../../../../tests/helpers/shared.ts";
import { globalView, PIXEL_MEAN, PIXEL_STD } from "./globalView.ts";

test("equals torch's bicubic interpolation of the golden picture", async () => {
  const fixtures = readFixture(golden("tiny_cases/c3_img_2x3.safetensors"));
  const pixels = await sharp(readFileSync(golden("tiny_cases/c3_img_2x3.img0.png")))
    .raw()
    .toBuffer();
  const view = keepStride(globalView(pixels, 2, 3, 336), [3, 336, 336], fixtures["global_view.0"]?.stride);
  expect(view).toMatchArray(floats(fixtures, "global_view.0"), { atol: 1e-5 });
});

test("one tile is its own global view, normalised", () => {
  fc.assert(
    fc.property(fc.uint8Array({ minLength: 48, maxLength: 48 }), (pixels) => {
      const expected = Array.from({ length: 48 }, (_, i) => {
        const channel = Math.floor(i / 16);
        return (
          ((pixels[(i % 16) * 3 + channel] ?? 0) / 255 - (PIXEL_MEAN[channel] ?? 0)) /
          (PIXEL_STD[channel] ?? 1)
        );
      });
      expect(globalView(pixels, 1, 1, 4)).toMatchArray(expected, { atol: 1e-6 });
    }),
  );
});

test("a picture of one colour keeps it in every grid: the weights add up to one", () => {
  const grid = fc.integer({ min: 1, max: 9 });
  fc.assert(
    fc.property(grid, grid, fc.integer({ min: 0, max: 255 }), (rows, cols, value) => {
      const view = globalView(new Uint8Array(rows * cols * 16 * 3).fill(value), rows, cols, 4);
      const expected = [0, 1, 2].flatMap((channel) =>
        new Array(16).fill((value / 255 - (PIXEL_MEAN[channel] ?? 0)) / (PIXEL_STD[channel] ?? 1)),
      );
      expect(view).toMatchArray(expected, { atol: 1e-5 });
    }),
  );
});
