/**
 * Moments and gradients by name, as a checkpoint keeps them, and back: one after the other, tile by tile if
 * their precision changes.
 */
import { startFetch } from "../../models/places.ts";
import { forEachPart } from "../../nn/rows.ts";
import { zeros } from "../../torch/create.ts";
import { Owner } from "../../torch/owner.ts";
import { type Device, scope, type Tensor } from "../../torch/tensor.ts";
import { BLOCK_ELEMENTS, type CodeTable, dequantized, quantized } from "./eightBit.ts";
import {
  codeTables,
  copyMoment_,
  flatSpan,
  isCodes,
  type Moment,
  type Moments,
  momentSpan,
  type Precision,
  type Span,
  spansOf,
} from "./moments.ts";
import type { AdamW } from "./optimizer.ts";
import type { Parameter } from "./updateTile.ts";

/** A file's tensors by name, on the host. */
export interface TensorFile {
  has(name: string): boolean;
  /** Belongs to the open scope. */
  tensor(name: string): Tensor;
}

/** Names of the moments in torch. */
const NAMES = { mean: "exp_avg", square: "exp_avg_sq" } as const satisfies Record<keyof Moments, string>;
const KINDS = Object.keys(NAMES) as (keyof Moments)[];

/** The moments by name, for a checkpoint. */
export function momentTensors({ parameters, moments }: AdamW): [name: string, Tensor][] {
  return parameters.flatMap(({ name }, index) =>
    KINDS.flatMap((kind): [string, Tensor][] => {
      const moment = moments[index]![kind];
      const saved = `${NAMES[kind]}.${name}`;
      return isCodes(moment)
        ? [
            [codesOf(saved), moment.codes],
            [absmaxOf(saved), moment.absmax],
          ]
        : [[saved, moment]];
    }),
  );
}

/**
 * Reads the moments of the same parameters, one after the other. Returns the precision that they were saved
 * in.
 */
export function restoreMoments(optimizer: AdamW, file: TensorFile): Precision {
  using owner = new Owner();
  const { parameters, moments, precision } = optimizer;
  let tables = optimizer.tables;
  let was = precision;
  const restore = ({ name, value, gradient }: Parameter, index: number): void => {
    for (const kind of KINDS) {
      const [into, saved] = [moments[index]![kind], `${NAMES[kind]}.${name}`];
      scope(() => {
        const from: Moment = file.has(codesOf(saved))
          ? { codes: file.tensor(codesOf(saved)), absmax: file.tensor(absmaxOf(saved)) }
          : file.tensor(saved);
        if (isCodes(from) === isCodes(into)) return copyMoment_(into, from);
        was = isCodes(from) ? "8bit" : "fp32";
        tables ??= owner.own(codeTables(gradient.device));
        const table = tables[kind];
        for (const span of spansOf(value, optimizer.tileElements)) {
          convertTile_(momentSpan(into, span), momentSpan(from, span), span, {
            table,
            device: gradient.device,
          });
        }
      });
    }
  };
  forEachPart(parameters, ({ value }) => value.numel, restore);
  return was;
}

/** The gradients by name, for a checkpoint within a step. */
export function gradientTensors({ parameters }: AdamW): [name: string, Tensor][] {
  return parameters.map(({ name, gradient }) => [name, gradient]);
}

/** Reads the gradients of a step that was interrupted back into their places. */
export function restoreGradients(optimizer: AdamW, file: TensorFile): void {
  const restore = ([name, gradient]: [string, Tensor]): void =>
    scope(() => {
      gradient.copy_(file.tensor(name));
    });
  forEachPart(gradientTensors(optimizer), ([, { numel }]) => numel, restore);
}

function codesOf(name: string): string {
  return `${name}.codes`;
}

function absmaxOf(name: string): string {
  return `${name}.absmax`;
}

/** Computes on the device, whatever the place of either. */
function convertTile_(
  into: Moment,
  from: Moment,
  { elements }: Span,
  { table, device }: { table: CodeTable; device: Device },
): void {
  scope(() => {
    using fetch = startFetch(from, "host", device, "optimizerState");
    const here = fetch.wait();
    if (isCodes(here)) {
      (into as Tensor).copy_(flatSpan(dequantized(here, table), { start: 0, elements }));
      return;
    }
    const blocks = Math.ceil(elements / BLOCK_ELEMENTS);
    const numbers = zeros([blocks, BLOCK_ELEMENTS], { device });
    flatSpan(numbers, { start: 0, elements }).copy_(here);
    copyMoment_(into, quantized(numbers, table)); // made on the device, whatever the place
  });
}
