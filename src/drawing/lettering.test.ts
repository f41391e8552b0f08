import fc from "fast-check";
import sharp from "sharp";
import { expect, test } from "vitest";
import { type TextStyle, textPath, textWidth, wrapText } from "./lettering.ts";

const style: TextStyle = { face: "sans", sizePixels: 40 };

test.each(["start", "middle", "end"] as const)(
  "ink stands where its %s is anchored, on the baseline",
  async (anchor) => {
    const box = await inkBox(textPath("HEH", 200, 100, { ...style, anchor }), 400, 150);
    const start = 200 - textWidth("HEH", style) * { start: 0, middle: 0.5, end: 1 }[anchor];
    expect(box.left).toBeGreaterThanOrEqual(Math.floor(start));
    expect(box.left).toBeLessThan(start + 6);
    expect(box.right).toBeLessThanOrEqual(Math.ceil(start + textWidth("HEH", style)));
    expect(box.right).toBeGreaterThan(start + textWidth("HEH", style) - 6);
    expect([box.top, box.bottom]).toEqual([71, 99]); // capitals are 0.729 em high
  },
);

test("letters with holes keep them", async () => {
  const pixels = await render(textPath("O", 10, 50, { ...style, sizePixels: 50 }), 60, 60);
  const middle = 60 * 32 + 10 + Math.round(textWidth("O", { ...style, sizePixels: 50 }) / 2);
  expect(pixels[middle]).toBe(255);
});

test("lines fit the width and lose no word", () => {
  const words = fc.array(fc.stringMatching(/^[a-z]{1,9}$/), { minLength: 1, maxLength: 40 });
  fc.assert(
    fc.property(words, fc.integer({ min: 220, max: 900 }), (list, widthPixels) => {
      const lines = wrapText(list.join(" "), widthPixels, style);
      expect(lines.join(" ")).toBe(list.join(" "));
      for (const line of lines)
        if (line.includes(" ")) expect(textWidth(line, style)).toBeLessThanOrEqual(widthPixels);
    }),
  );
});

/** Gray values, black on white. */
async function render(elements: string, width: number, height: number): Promise<Buffer> {
  const svg = `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}">${elements}</svg>`;
  return sharp(Buffer.from(svg)).flatten({ background: "white" }).toColourspace("b-w").raw().toBuffer();
}

async function inkBox(elements: string, width: number, height: number) {
  const pixels = await render(elements, width, height);
  const box = { left: width, right: 0, top: height, bottom: 0 };
  for (const [index, value] of pixels.entries()) {
    if (value > 127) continue;
    const [x, y] = [index % width, Math.floor(index / width)];
    box.left = Math.min(box.left, x);
    box.right = Math.max(box.right, x);
    box.top = Math.min(box.top, y);
    box.bottom = Math.max(box.bottom, y);
  }
  return box;
}
