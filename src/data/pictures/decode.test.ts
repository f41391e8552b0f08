import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import sharp from "sharp";
import { afterAll, describe, expect, test } from "vitest";
import { golden } from "../../../tests/helpers/shared.ts";
import { UserError } from "../../errors.ts";
import { decodeImage } from "./decode.ts";

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

describe("a picture that can't be read is a UserError with its name", () => {
  const png = readFileSync(golden("hd_pixels/a_grad_500x311.in.png"));
  // biome-ignore format: columns line up
  const broken = {
    "empty.png":     { bytes: Buffer.alloc(0),                           says: " is an empty file" },
    "text.png":      { bytes: Buffer.from("not a picture"),              says: ": this picture can't be read" },
    "truncated.png": { bytes: png.subarray(0, png.length / 2),           says: ": this picture can't be read" },
    "flipped.png":   { bytes: flipped(png, png.length / 2),              says: ": this picture can't be read" },
    "header.png":    { bytes: png.subarray(0, 20),                       says: ": this picture can't be read" },
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
      `${path}: this picture can't be read`,
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
