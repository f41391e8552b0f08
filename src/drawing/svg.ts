/** SVG elements as strings. */

export interface Box {
  x: number;
  y: number;
  width: number;
  height: number;
}

export interface Paint {
  fill?: string;
  stroke?: string;
  strokePixels?: number;
  opacity?: number;
}

/** Returns a document of the size in pixels. If given, `layout` is the size in the elements' own units. */
export function svgDocument(
  { width, height }: { width: number; height: number },
  elements: string,
  layout = { width, height },
): string {
  const space = `viewBox="0 0 ${layout.width} ${layout.height}" preserveAspectRatio="none"`;
  const head = `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" ${space}>`;
  return `${head}${elements}</svg>`;
}

export function rect({ x, y, width, height }: Box, paint: Paint, cornerPixels = 0): string {
  const corner = cornerPixels ? ` rx="${cornerPixels}"` : "";
  const place = `x="${round(x)}" y="${round(y)}" width="${round(width)}" height="${round(height)}"`;
  return `<rect ${place}${corner}${attributes(paint)}/>`;
}

export function path(commands: string, paint: Paint): string {
  return `<path d="${commands}"${attributes(paint)}/>`;
}

export function line(x1: number, y1: number, x2: number, y2: number, paint: Paint): string {
  return path(`M${round(x1)} ${round(y1)}L${round(x2)} ${round(y2)}`, paint);
}

/** Turns the elements clockwise about a point. */
export function turned(elements: string, degrees: number, aboutX: number, aboutY: number): string {
  return `<g transform="rotate(${round(degrees)} ${round(aboutX)} ${round(aboutY)})">${elements}</g>`;
}

/** Fill and stroke have their own opacity: the element's would be drawn through a layer, which is slow. */
function attributes({ fill = "none", stroke, strokePixels = 1, opacity }: Paint): string {
  const outline = stroke ? ` stroke="${stroke}" stroke-width="${strokePixels}"` : "";
  const clearness = opacity === undefined ? "" : ` fill-opacity="${opacity}" stroke-opacity="${opacity}"`;
  return ` fill="${fill}"${outline}${clearness}`;
}

function round(value: number): number {
  return Math.round(value * 100) / 100;
}
