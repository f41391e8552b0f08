/**
 * How quantised matrices are named and shaped in a checkpoint: what one is stored as is told by the names beside it. NF4 and int8 are as
 * bitsandbytes writes them into safetensors, fp8 is one scale a row. Loads no libtorch, so that a checkpoint can be checked without it.
 */
import { UserError } from "../../errors.ts";

export const NF4_BLOCK = 64;
export const NESTED_BLOCK = 256;

/** Precisions that a matrix can be quantised to. */
export const QUANTIZED_PRECISIONS = ["int8", "nf4", "fp8"] as const;
export type QuantizedPrecision = (typeof QUANTIZED_PRECISIONS)[number];

/** Blocks of bitsandbytes that are whole numbers of ours: a code stays what it is where blocks are split. */
const STORED_BLOCKS = [64, 128, 256, 512, 1024, 2048, 4096];

/** Access to the tensor shapes of a checkpoint. */
interface StoredShapes {
  readonly place: string;
  has(name: string): boolean;
  entry(name: string): { shape: readonly number[]; bytes: number };
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

/** How a weight is stored in NF4, by its shapes; undefined where it is not. */
export interface StoredNf4 {
  /** Numbers a block; undefined where it is none that is read. */
  block: number | undefined;
  /** Whether the absmax are quantised themselves. */
  nested: boolean;
}

/** The form of an NF4 weight of [rows, columns]. */
export function storedNf4(
  name: string,
  [rows, columns]: readonly [number, number],
  from: StoredShapes,
): StoredNf4 {
  const blocks = from.entry(`${name}.absmax`).shape.join();
  const block = STORED_BLOCKS.find((numbers) => blocks === `${Math.ceil((rows * columns) / numbers)}`);
  return { block, nested: from.has(`${name}.nested_absmax`) };
}

/** Names and shapes that a weight of this shape has in a checkpoint, as it is stored there. Throws UserError for FP4. */
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

/** Shapes for the form that an NF4 weight has: its blocks, absmax in full or quantised, codes in bytes or in wider numbers. */
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

/** Scales of a weight are named beside it, not below it. */
function moduleOf(name: string): string {
  return name.replace(/\.weight$/, "");
}
