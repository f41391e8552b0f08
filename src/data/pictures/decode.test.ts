import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import sharp from "sharp";
import { afterAll, describe, expect, test } from "vitest";
import { golden } from "../../../tests/helpers/shared.ts";
import { UserError } from "../../errors.ts";
import { decodeImage, readHeader } from "./decode.ts";

const folder = mkdtempSync(join(tmpdir(), "lorafit-decode-"));
afterAll(() => rmSync(folder, { recursive: true }));

test("CMYK becomes the RGB that Pillow makes of it", async () => {
  // 8 x 1 pixels and their RGB, written by Pillow 13.0.0
  const tiff =
    "SUkqACwAAAB4nGNgYGD4D8RcJ+Q0fCOS8/8DATMT468GBwUBoEQDAJzKCvoKAAABAwABAAAACAAAAAEBAwABAAAAAQAAAAIBAwAE" +
    "AAAAqgAAAAMBAwABAAAACAAAAAYBAwABAAAABQAAABEBBAABAAAACAAAABUBAwABAAAABAAAABYBAwABAAAAAQAAABcBBAABAAAA" +
    "JAAAABwBAwABAAAAAQAAAAAAAAAIAAgACAAIAA==";
  // biome-ignore format: one pixel a group
  const rgb = [255, 255, 255,  0, 255, 255,  207, 46, 190,  101, 94, 88,
               0, 0, 0,        5, 5, 5,      119, 179, 209, 127, 0, 127];
  const path = written("ink.tif", Buffer.from(tiff, "base64"));
  expect([...(await decodeImage(path, { compat: "official" })).pixels]).toEqual(rgb);
  expect([...(await decodeImage(path, { compat: "lorafit" })).pixels]).toEqual(rgb);
});

test.each(["lorafit", "official"] as const)("16 bits a channel keep their upper 8 (%s)", async (compat) => {
  const samples = Uint16Array.from([0, 255, 256, 0x1234, 0x80ff, 0xffff]);
  const raw = { width: 2, height: 1, channels: 3 } as const;
  const path = join(folder, "deep.png");
  await sharp(samples, { raw }).toColourspace("rgb16").png().toFile(path);
  expect([...(await decodeImage(path, { compat })).pixels]).toEqual([0, 0, 1, 0x12, 0x80, 0xff]);
});

test.each(["png", "jpeg", "webp", "gif", "tiff", "avif"] as const)(
  "a gray %s comes back as three equal channels",
  async (format) => {
    const path = join(folder, `gray.${format}`);
    const create = { width: 20, height: 10, channels: 3, background: "#808080" } as const;
    await sharp({ create }).greyscale().toFormat(format).toFile(path);
    const { width, height, pixels } = await decodeImage(path, { compat: "lorafit" });
    expect([width, height, pixels.length]).toEqual([20, 10, 600]);
    for (const value of pixels) expect(Math.abs(value - 128)).toBeLessThanOrEqual(2);
  },
);

describe("of a TIFF with channels beyond colour and alpha, the colours are read:", () => {
  const RGB = { photometric: 2, colours: 3 };
  const GRAY = { photometric: 1, colours: 1 };
  const INK = { photometric: 5, colours: 4 };
  test.each([
    ["RGB and two", RGB, [0, 0], 8],
    ["RGB, alpha and one", RGB, [2, 0], 8],
    ["RGB and three", RGB, [0, 0, 0], 8],
    ["RGB and two, 16 bits", RGB, [0, 0], 16],
    ["gray and two", GRAY, [0, 0], 8],
    ["gray and two, 16 bits", GRAY, [0, 0], 16],
    ["CMYK and alpha", INK, [2], 8],
    ["CMYK and two", INK, [0, 0], 8],
    ["CMYK, 16 bits", INK, [], 16],
    ["CMYK and alpha, 16 bits", INK, [2], 16],
  ])("%s", async (name, { photometric, colours }, extra, bits) => {
    const channels = colours + extra.length;
    const values = Uint8Array.from({ length: 6 * channels }, (_, index) => (index * 89 + 7) % 256);
    const path = written(`${name}.tif`, tiff({ values, channels, photometric, extra, bits }));
    const expected = Array.from({ length: 6 }, (_, pixel) => {
      const [first, second, third, black] = values.subarray(pixel * channels);
      if (colours === 1) return [first, first, first];
      const light = 255 - (black ?? 0);
      const ofInk = (ink = 0): number => light - Math.round((ink * light) / 255);
      return colours === 4 ? [ofInk(first), ofInk(second), ofInk(third)] : [first, second, third];
    });
    for (const compat of ["lorafit", "official"] as const)
      expect([...(await decodeImage(path, { compat })).pixels]).toEqual(expected.flat());
  });
});

describe("a BMP is read, whatever its depth and order of rows:", () => {
  // 3 x 2 pixels: the width is odd in bytes, and rows are padded
  const RGB = [255, 0, 0, 0, 255, 0, 0, 0, 255, 16, 32, 64, 200, 100, 50, 255, 255, 255];
  const PALETTE = RGB.flatMap((_, at) => (at % 3 === 0 ? [RGB[at + 2]!, RGB[at + 1]!, RGB[at]!, 0] : []));
  const ROWS = [RGB.slice(0, 9), RGB.slice(9)].map((row) =>
    [0, 3, 6].flatMap((at) => row.slice(at, at + 3).toReversed()),
  );
  const with32 = ROWS.map((row) => [0, 3, 6].flatMap((at) => [...row.slice(at, at + 3), 0]));
  test.each([
    [
      "1 bit",
      { bits: 1, palette: PALETTE.slice(0, 8), rows: [[0b01000000], [0b10100000]] },
      [0, 1, 0, 1, 0, 1],
    ],
    [
      "4 bits",
      {
        bits: 4,
        palette: PALETTE,
        rows: [
          [0x01, 0x20],
          [0x34, 0x50],
        ],
      },
      [0, 1, 2, 3, 4, 5],
    ],
    [
      "8 bits",
      {
        bits: 8,
        palette: PALETTE,
        rows: [
          [0, 1, 2],
          [3, 4, 5],
        ],
      },
      [0, 1, 2, 3, 4, 5],
    ],
    ["24 bits", { bits: 24, rows: ROWS }, [0, 1, 2, 3, 4, 5]],
    ["24 bits, top row first", { bits: 24, rows: ROWS, topFirst: true }, [0, 1, 2, 3, 4, 5]],
    ["32 bits, without an alpha that counts", { bits: 32, rows: with32 }, [0, 1, 2, 3, 4, 5]],
  ])("%s", async (name, picture, colours) => {
    const path = written(`${name}.bmp`, bmp(picture));
    const { width, height, pixels } = await decodeImage(path, { compat: "lorafit" });
    expect([width, height]).toEqual([3, 2]);
    expect([...pixels]).toEqual(colours.flatMap((colour) => RGB.slice(3 * colour, 3 * colour + 3)));
    expect(await readHeader(path)).toMatchObject({ width: 3, height: 2 });
  });

  test("cut off, run-length encoded, and without a size it is refused", async () => {
    const whole = bmp({ bits: 24, rows: ROWS });
    const encoded = Buffer.from(whole);
    encoded.writeUInt32LE(1, 30);
    const flat = Buffer.from(whole);
    flat.writeInt32LE(0, 18);
    for (const [name, bytes] of Object.entries({
      cut: whole.subarray(0, 60),
      encoded,
      flat,
      start: whole.subarray(0, 20),
    }))
      await expect(decodeImage(written(`${name}.bmp`, bytes), { compat: "lorafit" })).rejects.toThrow(
        `${name}.bmp: this picture can't be read (`,
      );
  });

  test("with more pixels than the limit it is refused before it is decoded", async () => {
    const huge = bmp({ bits: 24, rows: ROWS });
    huge.writeInt32LE(100_000, 18);
    huge.writeInt32LE(100_000, 22);
    await expect(decodeImage(written("huge.bmp", huge), { compat: "lorafit" })).rejects.toThrow(
      "100000 x 100000 pixels are more than the limit",
    );
  });
});

describe("a picture that can't be read is a UserError with its name", () => {
  const png = readFileSync(golden("hd_pixels/a_grad_500x311.in.png"));
  // biome-ignore format: columns line up
  const broken = {
    "empty.png":     { bytes: Buffer.alloc(0),                           says: " is an empty file" },
    "text.png":      { bytes: Buffer.from("not a picture"),              says: ": this picture can't be read (it has no format" },
    "truncated.png": { bytes: png.subarray(0, png.length / 2),           says: ": this picture can't be read (it is damaged or cut off)." },
    "flipped.png":   { bytes: flipped(png, png.length / 2),              says: ": this picture can't be read (it is damaged or cut off)." },
    "header.png":    { bytes: png.subarray(0, 20),                       says: ": this picture can't be read (it is damaged or cut off)." },
  };
  test.each(Object.entries(broken))("%s", async (name, { bytes, says }) => {
    const path = written(name, bytes);
    const error = await decodeImage(path, { compat: "lorafit" }).catch((thrown: unknown) => thrown);
    expect(error).toBeInstanceOf(UserError);
    expect((error as UserError).message).toContain(`${path}${says}`);
  });

  test("truncated.jpg", async () => {
    const jpeg = await sharp(png).jpeg().toBuffer();
    const path = written("truncated.jpg", jpeg.subarray(0, jpeg.length / 2));
    await expect(decodeImage(path, { compat: "official" })).rejects.toThrow(
      `${path}: this picture can't be read (it is damaged or cut off).`,
    );
  });

  test("one that isn't there", async () => {
    const path = join(folder, "nowhere.png");
    await expect(decodeImage(path, { compat: "lorafit" })).rejects.toThrow(
      `${path}: there is no such picture.`,
    );
  });

  test("a folder", async () => {
    await expect(decodeImage(folder, { compat: "lorafit" })).rejects.toThrow(UserError);
  });

  test("one with more pixels than the limit, before it is decoded", async () => {
    const path = written(
      "bomb.svg",
      Buffer.from('<svg xmlns="http://www.w3.org/2000/svg" width="20000" height="20000"/>'),
    );
    await expect(decodeImage(path, { compat: "lorafit" })).rejects.toThrow(
      "20000 x 20000 pixels are more than the limit",
    );
    await expect(
      decodeImage(golden("hd_pixels/q_rgba_120x80.in.png"), { compat: "lorafit", maxPixels: 9_599 }),
    ).rejects.toThrow("120 x 80 pixels are more than the limit of 9,599");
  });
});

test("a file that was replaced is read anew", async () => {
  const path = join(folder, "replaced.png");
  for (const background of ["#ff0000", "#00ff00"]) {
    await sharp({ create: { width: 4, height: 4, channels: 3, background } })
      .png()
      .toFile(path);
    const { pixels } = await decodeImage(path, { compat: "lorafit" });
    expect(Buffer.from(pixels.subarray(0, 3)).toString("hex")).toBe(background.slice(1));
  }
});

/** An uncompressed TIFF of 3 x 2 pixels; of 16 bits, the values are the upper 8. */
function tiff(picture: {
  values: Uint8Array;
  channels: number;
  photometric: number;
  extra: number[];
  bits: number;
}) {
  const { values, channels, photometric, extra, bits } = picture;
  const data = bits === 8 ? Buffer.from(values) : Buffer.from([...values].flatMap((value) => [99, value]));
  const fields: [tag: number, values: number[]][] = [
    [256, [3]], // width
    [257, [2]], // height
    [258, Array<number>(channels).fill(bits)],
    [259, [1]], // no compression
    [262, [photometric]],
    [273, [0]], // place of the data, set below
    [277, [channels]],
    [278, [2]], // rows of the one strip
    [279, [data.length]],
    ...(extra.length > 0 ? [[338, extra] as [number, number[]]] : []),
  ];
  const shorts = (list: readonly number[]): Buffer => Buffer.from(Uint16Array.from(list).buffer);
  const directoryBytes = 2 + 12 * fields.length + 4;
  const apart = fields.map(([, list]) => (list.length > 2 ? shorts(list) : Buffer.alloc(0)));
  const dataStart = 8 + directoryBytes + apart.reduce((sum, { length }) => sum + length, 0);
  const directory = Buffer.alloc(directoryBytes);
  directory.writeUInt16LE(fields.length, 0);
  let next = 8 + directoryBytes;
  for (const [index, [tag, list]] of fields.entries()) {
    const at = 2 + 12 * index;
    directory.writeUInt16LE(tag, at);
    directory.writeUInt16LE(3, at + 2); // shorts
    directory.writeUInt32LE(list.length, at + 4);
    if (list.length > 2) directory.writeUInt32LE(next, at + 8);
    else shorts(tag === 273 ? [dataStart] : list).copy(directory, at + 8);
    next += apart[index]!.length;
  }
  return Buffer.concat([Buffer.from("II*\0\b\0\0\0", "latin1"), directory, ...apart, data]);
}

/** A BMP 3 pixels wide; rows from the top, without their padding. */
function bmp(picture: { bits: number; rows: number[][]; palette?: number[]; topFirst?: boolean }): Buffer {
  const { bits, rows, palette = [], topFirst = false } = picture;
  const padded = rows.map((row) =>
    Buffer.concat([Buffer.from(row), Buffer.alloc((4 - (row.length % 4)) % 4)]),
  );
  const data = Buffer.concat(topFirst ? padded : padded.toReversed());
  const header = Buffer.alloc(54);
  header.write("BM");
  header.writeUInt32LE(54 + palette.length + data.length, 2);
  header.writeUInt32LE(54 + palette.length, 10);
  header.writeUInt32LE(40, 14);
  header.writeInt32LE(3, 18);
  header.writeInt32LE(topFirst ? -rows.length : rows.length, 22);
  header.writeUInt16LE(1, 26);
  header.writeUInt16LE(bits, 28);
  header.writeUInt32LE(data.length, 34);
  header.writeUInt32LE(palette.length / 4, 46);
  return Buffer.concat([header, Buffer.from(palette), data]);
}

function written(name: string, bytes: Uint8Array): string {
  const path = join(folder, name);
  writeFileSync(path, bytes);
  return path;
}

function flipped(bytes: Uint8Array, at: number): Buffer {
  const copy = Buffer.from(bytes);
  for (let i = 0; i < 64; i++) copy[Math.floor(at) + i] = (copy[Math.floor(at) + i] as number) ^ 0xff;
  return copy;
}
