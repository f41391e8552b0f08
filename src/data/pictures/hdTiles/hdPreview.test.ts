import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import sharp from "sharp";
import { afterAll, expect, test, vi } from "vitest";
import { hdGrid } from "./hdGrid.ts";
import { hdTransform } from "./hdImage.ts";
import { drawPreview, transformedPng } from "./hdPreview.ts";

const drawn: string[] = [];
vi.mock("../../../drawing/lettering.ts", async (load) => {
  const lettering = await load<typeof import("../../../drawing/lettering.ts")>();
  const textPath: typeof lettering.textPath = (text, ...rest) => {
    drawn.push(text);
    return lettering.textPath(text, ...rest);
  };
  return { ...lettering, textPath };
});

const folder = mkdtempSync(join(tmpdir(), "lorafit-preview-"));
afterAll(() => rmSync(folder, { recursive: true }));

test("the transformed picture is drawn pixel for pixel", async () => {
  const pixels = Uint8Array.from({ length: 90 * 40 * 3 }, (_, i) => Math.imul(i, 2_654_435_761) >>> 24);
  const image = hdTransform({ width: 90, height: 40, pixels }, hdGrid(90, 40, 6));
  const { data, info } = await sharp(await transformedPng(image))
    .raw()
    .toBuffer({ resolveWithObject: true });
  expect(info).toMatchObject({ width: image.cols * 336, height: image.rows * 336, channels: 3 });
  expect(Buffer.compare(data, image.pixels)).toBe(0);
});

test("the preview names file, grid and tokens, numbers the tiles and shows both views", async () => {
  drawn.length = 0;
  const grid = hdGrid(300, 200, 6);
  const image = hdTransform(
    { width: 300, height: 200, pixels: new Uint8Array(300 * 200 * 3).fill(40) },
    grid,
  );
  const png = await drawPreview(image, grid, { caption: "page.png\n300 x 200" });
  expect(drawn).toEqual(
    expect.arrayContaining(["page.png", "300 x 200", "1,045 image tokens", "global view"]),
  );
  expect(drawn).toContain("2 x 3 tiles of 336 pixels: 1008 x 672");
  expect(drawn.filter((text) => /^\d+$/.test(text))).toEqual(["1", "2", "3", "4", "5", "6"]);

  const { data, info } = await sharp(png).raw().toBuffer({ resolveWithObject: true });
  expect(info.channels).toBe(3);
  const [tileMiddle, globalMiddle] = [
    [36 + 168, 296 + 168],
    [info.width - 36 - 112, 36 + 112],
  ].map(([x = 0, y = 0]) => data[(y * info.width + x) * 3]);
  expect([tileMiddle, globalMiddle]).toEqual([40, 40]);
});

test.each([
  [1, 10_000, 90],
  [10_000, 1, 90],
  [336, 336, 1],
])(
  "a picture of %i x %i has a preview too, its long name cut in the middle",
  async (width, height, hdNum) => {
    const grid = hdGrid(width, height, hdNum);
    const image = hdTransform({ width, height, pixels: new Uint8Array(width * height * 3) }, grid);
    drawn.length = 0;
    const { width: shown } = await sharp(
      await drawPreview(image, grid, { caption: "n".repeat(400) }),
    ).metadata();
    expect(shown).toBeLessThan(2000);
    expect(drawn[0]).toMatch(/^n+…n+$/);
  },
);
