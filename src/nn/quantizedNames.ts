/**
 * How quantised matrices are named and shaped in a checkpoint: what one is stored as is told by the names beside it. NF4 and int8 are as
 * bitsandbytes writes them into safetensors, fp8 is one scale a row. Loads no libtorch, so that a checkpoint can be checked without it.
 */

export const NF4_BLOCK = 64;
export const NESTED_BLOCK = 256;

/** Precisions that a matrix can be quantised to. */
export const QUANTIZED_PRECISIONS = ["int8", "nf4", "fp8"] as const;
export type QuantizedPrecision = (typeof QUANTIZED_PRECISIONS)[number];

/** What is asked of a checkpoint. */
interface StoredShapes {
  has(name: string): boolean;
  entry(name: string): { shape: readonly number[] };
}

interface Layout {
  /** Names of the tensors for a weight of this name, its own first; the second tells that it is stored so. */
  names(name: string): readonly [string, string, ...string[]];
  /** Their shapes, for a weight of [rows, columns]; undefined: any. */
  shapes(rows: number, columns: number): (readonly number[] | undefined)[];
}

export const LAYOUTS: Record<QuantizedPrecision, Layout> = {
  nf4: {
    names: (name) => [
      name,
      `${name}.quant_state.bitsandbytes__nf4`,
      `${name}.absmax`,
      `${name}.quant_map`,
      `${name}.nested_absmax`,
      `${name}.nested_quant_map`,
    ],
    shapes(rows, columns) {
      const blocks = Math.ceil((rows * columns) / NF4_BLOCK);
      const bytes = Math.ceil((rows * columns) / 2);
      return [[bytes, 1], undefined, [blocks], [16], [Math.ceil(blocks / NESTED_BLOCK)], [NESTED_BLOCK]];
    },
  },
  int8: {
    names: (name) => [name, `${moduleOf(name)}.SCB`, `${moduleOf(name)}.weight_format`],
    shapes: (rows, columns) => [[rows, columns], [rows], []],
  },
  fp8: {
    names: (name) => [name, `${moduleOf(name)}.weight_scale`],
    shapes: (rows, columns) => [
      [rows, columns],
      [rows, 1],
    ],
  },
};

/** How a weight is stored; undefined where it is in full. */
export function storedPrecision(
  name: string,
  { has }: Pick<StoredShapes, "has">,
): QuantizedPrecision | undefined {
  return QUANTIZED_PRECISIONS.find((precision) => has(LAYOUTS[precision].names(name)[1]));
}

/** Names and shapes that a weight of this shape has in a checkpoint, as it is stored there. */
export function storedShapes(
  name: string,
  shape: readonly number[],
  from: StoredShapes,
): [string, readonly number[]][] {
  const precision = storedPrecision(name, from);
  const [rows, columns] = shape;
  if (!precision || rows === undefined || columns === undefined) return [[name, shape]];
  const names = LAYOUTS[precision].names(name);
  const shapes = LAYOUTS[precision].shapes(rows, columns);
  return names.map((part, at) => [part, shapes[at] ?? from.entry(part).shape]);
}

/** Scales of a weight are named beside it, not below it. */
function moduleOf(name: string): string {
  return name.replace(/\.weight$/, "");
}
