/**
 * Names and shapes of quantised matrices in a checkpoint. The names beside a weight show how the weight is
 * stored. NF4 and int8 are as bitsandbytes writes them into safetensors; fp8 has one scale per row. Loads no
 * libtorch, so that a checkpoint can be checked without it.
 */
import { UserError } from "../../errors.ts";

export const NF4_BLOCK = 64;
export const NESTED_BLOCK = 256;

/** Precisions that a matrix can be quantised to. */
export const QUANTIZED_PRECISIONS = ["int8", "nf4", "fp8"] as const;
export type QuantizedPrecision = (typeof QUANTIZED_PRECISIONS)[number];

/** Block sizes of bitsandbytes that are multiples of NF4_BLOCK: splitting such blocks changes no code. */
const STORED_BLOCKS = [64, 128, 256, 512, 1024, 2048, 4096];

/** The parts of a checkpoint that checking needs. */
interface StoredShapes {
  readonly place: string;
  has(name: string): boolean;
  entry(name: string): { shape: readonly number[]; bytes: number };
}

interface Layout {
  /**
   * Names of the tensors for a weight of this name. The first is the weight's own; the second exists only in
   * this layout.
   */
  names(name: string): readonly [string, string, ...string[]];
  /** Shapes of these tensors, for a weight of [rows, columns]; undefined: any shape. */
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

/** Returns the precision that a weight is stored in; undefined if it is not quantised. */
export function storedPrecision(
  name: string,
  { has }: Pick<StoredShapes, "has">,
): QuantizedPrecision | undefined {
  return QUANTIZED_PRECISIONS.find((precision) => has(LAYOUTS[precision].names(name)[1]));
}

/** Form of a weight stored in NF4. */
export interface StoredNf4 {
  /** Numbers per block; undefined if lorafit cannot read such blocks. */
  block: number | undefined;
  /** Whether the absmax are quantised themselves. */
  nested: boolean;
}

/** Returns the form of an NF4 weight of [rows, columns], found from its shapes. */
export function storedNf4(
  name: string,
  [rows, columns]: readonly [number, number],
  from: StoredShapes,
): StoredNf4 {
  const blocks = from.entry(`${name}.absmax`).shape.join();
  const block = STORED_BLOCKS.find((numbers) => blocks === `${Math.ceil((rows * columns) / numbers)}`);
  return { block, nested: from.has(`${name}.nested_absmax`) };
}

/** Returns the names and shapes that a weight of this shape has in a checkpoint. Throws UserError for FP4. */
export function storedShapes(
  name: string,
  shape: readonly number[],
  from: StoredShapes,
): [string, readonly number[]][] {
  if (from.has(`${name}.quant_state.bitsandbytes__fp4`)) {
    throw new UserError(`${from.place}: ${name} is quantised to FP4, which lorafit does not read.`, {
      fix: "Start from the unquantised checkpoint, with --base nf4 for 4 bits.",
    });
  }
  const precision = storedPrecision(name, from);
  const [rows, columns] = shape;
  if (!precision || rows === undefined || columns === undefined) return [[name, shape]];
  const names = LAYOUTS[precision].names(name);
  const shapes = LAYOUTS[precision].shapes(rows, columns);
  const wanted = names.map((part, at): [string, readonly number[]] => [
    part,
    shapes[at] ?? from.entry(part).shape,
  ]);
  return precision === "nf4" ? otherNf4Shapes(name, [rows, columns], wanted, from) : wanted;
}

/**
 * Adapts shapes to the form of an NF4 weight: block size, absmax in full or quantised, codes in bytes or in
 * wider numbers.
 */
function otherNf4Shapes(
  name: string,
  shape: readonly [number, number],
  wanted: [string, readonly number[]][],
  from: StoredShapes,
): [string, readonly number[]][] {
  if (!from.has(`${name}.absmax`)) return wanted;
  const { block = NF4_BLOCK, nested } = storedNf4(name, shape, from);
  const blocks = Math.ceil((shape[0] * shape[1]) / block);
  const codes = from.entry(name);
  const others = new Map([
    [name, codes.bytes === wanted[0]![1][0] ? codes.shape : wanted[0]![1]],
    [`${name}.absmax`, [blocks]],
    [`${name}.nested_absmax`, [Math.ceil(blocks / NESTED_BLOCK)]],
  ]);
  return wanted
    .filter(([part]) => nested || !/\.nested_(absmax|quant_map)$/.test(part))
    .map(([part, shape]) => [part, others.get(part) ?? shape]);
}

/** Returns the module's name: scales are named beside a weight, not below it. */
function moduleOf(name: string): string {
  return name.replace(/\.weight$/, "");
}
