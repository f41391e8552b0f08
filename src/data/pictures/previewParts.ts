/** Parts of drawings of pictures as a model sees them: caption, lines, numbers. */
import { type TextStyle, textPath, textWidth } from "../../drawing/lettering.ts";
import { path } from "../../drawing/svg.ts";

export const QUIET = "#566272";
export const PAPER = "#eef0f3";
export const ACCENT = "#d01c63";

const INK = "#17202b";
const TITLE: TextStyle = { face: "sansBold", sizePixels: 30, fill: INK };
const DETAIL: TextStyle = { face: "sans", sizePixels: 22, fill: INK };
const TOKENS: TextStyle = { ...DETAIL, face: "sansBold", fill: ACCENT };
const REMARK: TextStyle = { face: "sans", sizePixels: 18, fill: QUIET };

/** The words beside a drawing. The first line of the caption (the file's name) is its title. */
export interface Words {
  caption: string;
  size: string;
  tokens: string;
  remarks: readonly string[];
}

/** Draws the words, with their left edge at x, below y, and at most so wide. */
export function drawWords(
  { caption, size, tokens, remarks }: Words,
  x: number,
  y: number,
  room: number,
): string {
  const [title = "", ...facts] = caption.split("\n");
  const lines: [string, TextStyle][] = [
    [title, TITLE],
    ...facts.map((fact): [string, TextStyle] => [fact, DETAIL]),
    [size, DETAIL],
    [tokens, TOKENS],
    ...remarks.map((remark): [string, TextStyle] => [remark, REMARK]),
  ];
  let baseline = y - 12;
  return lines
    .map(([text, style]) => {
      baseline += style.sizePixels * 1.5;
      return textPath(shortened(text, room, style), x, baseline, style);
    })
    .join("");
}

/** Draws lines across and down, at the given places within a box. */
export function gridLines(
  { left, top, width, height }: { left: number; top: number; width: number; height: number },
  { across, down }: { across: readonly number[]; down: readonly number[] },
): string {
  const lines = [
    ...across.map((y) => `M${left} ${top + y}h${width}`),
    ...down.map((x) => `M${left + x} ${top}v${height}`),
  ].join("");
  // twice, a coloured line over a white one, so that it stands out on any picture
  const white = path(lines, { stroke: "#fff", strokePixels: 5, opacity: 0.8 });
  return white + path(lines, { stroke: ACCENT, strokePixels: 2 });
}

/** Draws white text on the accent colour in the corner at (x, y). */
export function badge(text: string, x: number, y: number, sizePixels: number): string {
  const style: TextStyle = { face: "sansBold", sizePixels, fill: "#fff" };
  const [width, height] = [textWidth(text, style) + sizePixels * 0.8, sizePixels * 1.5];
  const tab = path(`M${x} ${y}h${width}v${height - 4}q0 4-4 4h${4 - width}z`, { fill: ACCENT });
  return tab + textPath(text, x + sizePixels * 0.4, y + sizePixels * 1.1, style);
}

/** Returns the text, or its two ends around an ellipsis if it is too long. */
function shortened(text: string, roomPixels: number, style: TextStyle): string {
  const letters = [...text];
  let shown = text;
  for (let keep = letters.length - 2; textWidth(shown, style) > roomPixels && keep > 1; keep--) {
    const [start, end] = [letters.slice(0, Math.ceil(keep / 2)), letters.slice(-Math.floor(keep / 2))];
    shown = `${start.join("")}…${end.join("")}`;
  }
  return shown;
}
