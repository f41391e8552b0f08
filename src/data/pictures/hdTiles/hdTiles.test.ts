import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import sharp from "sharp";
import { afterAll, describe, expect, test } from "vitest";
import { golden } from "../../../../tests/helpers/shared.ts";
import { UserError } from "../../../errors.ts";
import { imageSize } from "../decode.ts";
import { hdGrid } from "./hdGrid.ts";
import { hdTransform, loadHdImage } from "./hdImage.ts";

const TILE_PIXELS = 336;

const folder = mkdtempSync(join(tmpdir(), "lorafit-image-"));
afterAll(() => rmSync(folder, { recursive: true }));

interface GoldenGrid {
  w: number;
  h: number;
  hd_num: number;
  error?: string;
  [measure: string]: number | string | boolean | undefined;
}

describe("hdGrid", () => {
  const { cases } = JSON.parse(readFileSync(golden("hd_transform.json"), "utf8")) as { cases: GoldenGrid[] };

  test("equals the official transform in all 700 cases", () => {
    expect(cases).toHaveLength(700);
    for (const { w, h, hd_num: hdNum, error, ...expected } of cases) {
      if (error) {
        expect(() => hdGrid(w, h, hdNum), `${w} x ${h} at ${hdNum}`).toThrow(UserError);
        continue;
      }
      const grid = hdGrid(w, h, hdNum);
      expect(asGolden(grid), `${w} x ${h} at ${hdNum}`).toEqual(expected);
    }
  });

  test("the grid keeps within hd_num, holds the resized picture and pads less than a tile", () => {
    fc.assert(
      fc.property(size, size, fc.integer({ min: 1, max: 200 }), (width, height, hdNum) => {
        const grid = hdGrid(width, height, hdNum);
        expect(grid.rows * grid.cols).toBeLessThanOrEqual(hdNum);
        expect(grid.padLeft + grid.resizedWidth + grid.padRight).toBe(grid.cols * TILE_PIXELS);
        expect(grid.padTop + grid.resizedHeight + grid.padBottom).toBe(grid.rows * TILE_PIXELS);
        expect(grid.padLeft + grid.padRight + grid.padTop + grid.padBottom).toBeLessThan(TILE_PIXELS);
        expect(grid.tokens).toBe((grid.rows * grid.cols + 1) * 144 + 1 + (grid.rows + 1) * 12);
      }),
    );
  });

  test("a picture on its side has its grid on its side", () => {
    fc.assert(
      fc.property(size, size, fc.integer({ min: 1, max: 99 }), (width, height, hdNum) => {
        fc.pre(width !== height);
        const [grid, turned] = [hdGrid(width, height, hdNum), hdGrid(height, width, hdNum)];
        expect([turned.rows, turned.cols, turned.padTop, turned.padRight]).toEqual([
          grid.cols,
          grid.rows,
          grid.padLeft,
          grid.padBottom,
        ]);
      }),
    );
  });

  test.each([
    [16, 2_653],
    [25, 4_057],
    [55, 8_737],
  ])("hd_num %i gives at most %i tokens", (hdNum, tokens) => {
    let most = 0;
    for (let ratio = 1; ratio < 60; ratio += 0.01)
      most = Math.max(most, hdGrid(100, 100 * ratio, hdNum).tokens);
    expect(most).toBe(tokens);
  });

  test("hd_num 91 shows a 4096 x 2160 picture in 13 x 7 tiles without downscaling", () => {
    expect(hdGrid(4096, 2160, 91)).toMatchObject({ rows: 7, cols: 13, tokens: 13_345, resizedWidth: 4368 });
  });

  test.each([-1, 0, 0.5])("hd_num %d is refused with the reason", (hdNum) => {
    expect(() => hdGrid(640, 480, hdNum)).toThrow(`--hd-num must be 1 or more (got ${hdNum}).`);
  });

  test.each([2.5, Number.NaN, 1e9])("hd_num %d is refused", (hdNum) => {
    expect(() => hdGrid(640, 480, hdNum)).toThrow("--hd-num must be a whole number");
  });

  test("an extreme ratio is refused by name, and the hd_num that the error asks for is enough", () => {
    expect(() => hdGrid(5000, 7, 1, "strip.png")).toThrow("strip.png: 5000 x 7 pixels, a ratio of 714 to 1");
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 100_000 }), fc.integer({ min: 1, max: 100 }), (width, height) => {
        const enough = enoughTiles(() => hdGrid(width, height, 1));
        expect(hdGrid(width, height, enough).resizedHeight).toBeGreaterThan(0);
      }),
    );
  });
});

describe("loadHdImage", () => {
  interface GoldenPixels {
    name: string;
    hd_num: number;
    input: string;
    output: string;
  }
  const { cases } = JSON.parse(readFileSync(golden("hd_pixels/cases.json"), "utf8")) as {
    cases: GoldenPixels[];
  };

  test.each(cases)("$name equals the official pixels", async ({ hd_num: hdNum, input, output }) => {
    const image = await loadHdImage(golden(`hd_pixels/${input}`), hdNum, "official");
    const expected = await sharp(golden(`hd_pixels/${output}`))
      .raw()
      .toBuffer();
    expect(Buffer.compare(image.pixels, expected)).toBe(0);
  });

  test("a picture with its grid's own size comes back as it is", async () => {
    const path = golden("tiny_cases/c3_img_2x3.img0.png");
    const image = await loadHdImage(path, 6, "official");
    expect([image.rows, image.cols]).toEqual([2, 3]);
    expect(Buffer.compare(image.pixels, await sharp(path).raw().toBuffer())).toBe(0);
  });

  test("a transparent picture lands on white, or keeps its hidden colour for official", async () => {
    const path = join(folder, "clear.png");
    const create = {
      width: 8,
      height: 8,
      channels: 4,
      background: { r: 10, g: 20, b: 30, alpha: 0 },
    } as const;
    await sharp({ create }).png().toFile(path);
    expect((await loadHdImage(path, 1, "lorafit")).pixels.subarray(0, 3)).toEqual(
      Uint8Array.of(255, 255, 255),
    );
    expect((await loadHdImage(path, 1, "official")).pixels.subarray(0, 3)).toEqual(Uint8Array.of(10, 20, 30));
  });

  test("EXIF orientation turns the picture and its size, but for official", async () => {
    const path = join(folder, "turned.jpg");
    const create = { width: 64, height: 32, channels: 3, background: "navy" } as const;
    await sharp({ create }).withMetadata({ orientation: 6 }).jpeg().toFile(path);
    expect(await imageSize(path, "lorafit")).toEqual({ width: 32, height: 64 });
    expect(await imageSize(path, "official")).toEqual({ width: 64, height: 32 });
    expect(await loadHdImage(path, 2, "lorafit")).toMatchObject({ rows: 2, cols: 1 });
    expect(await loadHdImage(path, 2, "official")).toMatchObject({ rows: 1, cols: 2 });
  });
});

test("a portrait equals its transposed landscape, transposed back", () => {
  const sizes = fc.record({
    width: fc.integer({ min: 1, max: 40 }),
    height: fc.integer({ min: 1, max: 40 }),
  });
  fc.assert(
    fc.property(sizes, fc.integer({ min: 1, max: 4 }), fc.nat(), ({ width, height }, hdNum, seed) => {
      fc.pre(width < height);
      const portrait = noise(width, height, seed);
      const turned = hdTransform(transpose(portrait), hdGrid(height, width, hdNum));
      const upright = hdTransform(portrait, hdGrid(width, height, hdNum));
      const expected = transpose({
        ...turned,
        width: turned.cols * TILE_PIXELS,
        height: turned.rows * TILE_PIXELS,
      });
      expect(Buffer.compare(upright.pixels, expected.pixels)).toBe(0);
    }),
    { numRuns: 10 },
  );
});

const size = fc.integer({ min: 16, max: 5000 });

function asGolden(grid: ReturnType<typeof hdGrid>) {
  return {
    transposed: grid.transposed,
    resized_w: grid.resizedWidth,
    resized_h: grid.resizedHeight,
    pad_left: grid.padLeft,
    pad_top: grid.padTop,
    pad_right: grid.padRight,
    pad_bottom: grid.padBottom,
    padded_w: grid.width,
    padded_h: grid.height,
    tiles_h: grid.rows,
    tiles_w: grid.cols,
    tokens: grid.tokens,
  };
}

/** The hd_num that an error's remedy names, or 1 where there is none. */
function enoughTiles(attempt: () => unknown): number {
  try {
    attempt();
    return 1;
  } catch (thrown) {
    return Number(/--hd-num (\d+)/.exec((thrown as UserError).fix ?? "")?.[1]);
  }
}

function noise(width: number, height: number, seed: number) {
  const pixels = Uint8Array.from(
    { length: width * height * 3 },
    (_, i) => ((i + seed) * 2_654_435_761) >>> 24,
  );
  return { width, height, pixels };
}

function transpose({ width, height, pixels }: { width: number; height: number; pixels: Uint8Array }) {
  const turned = new Uint8Array(pixels.length);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      for (let c = 0; c < 3; c++)
        turned[(x * height + y) * 3 + c] = pixels[(y * width + x) * 3 + c] as number;
    }
  }
  return { width: height, height: width, pixels: turned };
}
