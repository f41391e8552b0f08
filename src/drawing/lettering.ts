/**
 * Writes text as SVG outlines from the project's own fonts, so that a drawing looks the same on a machine
 * without fonts. Left to right, one glyph a character, without kerning.
 */
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import opentype, { type Font, type PathCommand } from "opentype.js";

const FACES = {
  sans: "DejaVuSans",
  sansBold: "DejaVuSans-Bold",
  condensed: "DejaVuSansCondensed",
  condensedBold: "DejaVuSansCondensed-Bold",
  serif: "DejaVuSerif",
  serifBold: "DejaVuSerif-Bold",
  serifItalic: "DejaVuSerif-Italic",
  mono: "DejaVuSansMono",
  monoBold: "DejaVuSansMono-Bold",
} as const;

export type Face = keyof typeof FACES;

export interface TextStyle {
  face: Face;
  sizePixels: number;
  fill?: string;
  /** End of the text that stands at x; default: "start". */
  anchor?: "start" | "middle" | "end";
}

/** Returns an SVG path element of the text, with its baseline at y. */
export function textPath(text: string, x: number, y: number, style: TextStyle): string {
  const { face, sizePixels, fill = "#000", anchor = "start" } = style;
  const scale = sizePixels / fontOf(face).unitsPerEm;
  let penUnits = 0;
  let outline = "";
  for (const character of text) {
    const { path, advanceUnits } = glyphOf(face, character);
    if (path !== "") outline += `M${penUnits} 0${path}`;
    penUnits += advanceUnits;
  }
  const start = x - penUnits * scale * ANCHOR_SHARE[anchor];
  const place = `translate(${start.toFixed(2)} ${y.toFixed(2)}) scale(${scale.toFixed(6)})`;
  return `<path transform="${place}" fill="${fill}" d="${outline}"/>`;
}

/** Returns the width of the text in pixels. */
export function textWidth(text: string, { face, sizePixels }: TextStyle): number {
  let units = 0;
  for (const character of text) units += glyphOf(face, character).advanceUnits;
  return (units * sizePixels) / fontOf(face).unitsPerEm;
}

/** Breaks the text at spaces into lines of at most the given width. A longer word has a line of its own. */
export function wrapText(text: string, widthPixels: number, style: TextStyle): string[] {
  const lines: string[] = [];
  for (const word of text.split(" ")) {
    const longer = lines.length === 0 ? word : `${lines.at(-1)} ${word}`;
    if (lines.length > 0 && textWidth(longer, style) <= widthPixels) lines[lines.length - 1] = longer;
    else lines.push(word);
  }
  return lines;
}

const ANCHOR_SHARE = { start: 0, middle: 0.5, end: 1 } as const;

interface Outline {
  /** Relative to the pen on the baseline, in font units, y downwards. */
  path: string;
  advanceUnits: number;
}

const fonts = new Map<Face, Font>();
const outlines = new Map<string, Outline>();

function fontOf(face: Face): Font {
  let font = fonts.get(face);
  if (!font) {
    const file = createRequire(import.meta.url).resolve(`dejavu-fonts-ttf/ttf/${FACES[face]}.ttf`);
    const { buffer, byteOffset, byteLength } = readFileSync(file);
    font = opentype.parse(buffer.slice(byteOffset, byteOffset + byteLength) as ArrayBuffer);
    fonts.set(face, font);
  }
  return font;
}

function glyphOf(face: Face, character: string): Outline {
  const key = `${face} ${character}`;
  let outline = outlines.get(key);
  if (!outline) {
    const glyph = fontOf(face).charToGlyph(character);
    outline = { path: relativePath(glyph.path.commands), advanceUnits: glyph.advanceWidth };
    outlines.set(key, outline);
  }
  return outline;
}

/** Relative commands let a glyph stand anywhere in a text without its numbers being written anew. */
function relativePath(commands: readonly PathCommand[]): string {
  let path = "";
  let [penX, penY, startX, startY] = [0, 0, 0, 0];
  for (const command of commands) {
    if (command.type === "Z") {
      path += "z";
      [penX, penY] = [startX, startY];
      continue;
    }
    const { type, x, y } = command;
    const control = type === "Q" ? `${command.x1 - penX} ${penY - command.y1} ` : "";
    path += `${type.toLowerCase()}${control}${x - penX} ${penY - y}`;
    [penX, penY] = [x, y];
    if (type === "M") [startX, startY] = [x, y];
  }
  return path;
}
