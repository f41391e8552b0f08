/** The part of opentype.js that the project uses; the package ships no types. */
declare module "opentype.js" {
  /** An outline in font units, y upwards. TrueType fonts have no cubic curves. */
  export type PathCommand =
    | { type: "M" | "L"; x: number; y: number }
    | { type: "Q"; x1: number; y1: number; x: number; y: number }
    | { type: "Z" };

  interface Glyph {
    readonly advanceWidth: number;
    readonly path: { readonly commands: readonly PathCommand[] };
  }

  export interface Font {
    readonly unitsPerEm: number;
    charToGlyph(character: string): Glyph;
  }

  const opentype: { parse(file: ArrayBuffer): Font };
  export default opentype;
}
