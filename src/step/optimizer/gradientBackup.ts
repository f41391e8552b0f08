/**
 * LoRA gradients as they were before a micro-batch, so that a micro-batch that ran out of memory can be
 * undone to the bit.
 */
import type { Place } from "../../models/places.ts";
import { emptyOnHost, startCopy } from "../../torch/copies.ts";
import { category } from "../../torch/device.ts";
import { dispose, keep, scope, type Tensor } from "../../torch/tensor.ts";
import { flatSpan, type Span } from "./moments.ts";

export interface GradientBackup extends Disposable {
  /** Remembers the gradients as they are. */
  save(): void;
  /** Gives them back their values of then. */
  restore(): void;
  /** Remembers these parts as they are now, and the rest as before. */
  saveParts(parts: readonly GradientPart[]): void;
  /** Gives these parts back what was remembered last. */
  restoreParts(parts: readonly GradientPart[]): void;
  /** Frees its memory until the next time that gradients are saved; false where there was none. */
  release(): boolean;
}

/** Some elements of a gradient. */
export interface GradientPart {
  gradient: Tensor;
  span: Span;
}

/** Room for a copy of the gradients, where a step has several micro-batches. */
export function gradientCopies(gradients: readonly Tensor[], place: Place): GradientBackup {
  let copies: Tensor[] | undefined = copiesOf(gradients, place);
  const release = (): boolean => {
    const had = copies !== undefined;
    dispose(copies);
    copies = undefined;
    return had;
  };
  const partsOf = (parts: readonly GradientPart[]): { copies: Tensor[]; own: Tensor[] } => ({
    copies: parts.map(({ gradient, span }) => flatSpan(copies![gradients.indexOf(gradient)]!, span)),
    own: parts.map(({ gradient, span }) => flatSpan(gradient, span)),
  });
  return {
    save: () => {
      copies ??= copiesOf(gradients, place);
      copyAll(copies, gradients);
    },
    restore: () => copyAll(gradients, copies!),
    saveParts: (parts) =>
      scope(() => {
        const { copies, own } = partsOf(parts);
        copyAll(copies, own);
      }),
    restoreParts: (parts) =>
      scope(() => {
        const { copies, own } = partsOf(parts);
        copyAll(own, copies);
      }),
    release,
    [Symbol.dispose]: release,
  };
}

function copiesOf(gradients: readonly Tensor[], place: Place): Tensor[] {
  const room = ({ shape, dtype, device }: Tensor): Tensor => emptyOnHost(shape, { dtype, device });
  return category("loraGradients", () =>
    keep(
      scope(() => gradients.map((gradient) => (place === "host" ? room(gradient) : gradient.zerosLike()))),
    ),
  );
}

/** Where a step has one micro-batch, gradients are zero before it. No part can be remembered. */
export function zeroBackup(gradients: readonly Tensor[]): GradientBackup {
  const noCopy = (): never => {
    throw new Error("a run whose steps have one micro-batch keeps no copy of its gradients");
  };
  return {
    saveParts: noCopy,
    restoreParts: noCopy,
    save: () => {},
    restore: () => scope(() => gradients.forEach((gradient) => void gradient.zero_())),
    release: () => false,
    [Symbol.dispose]: () => {},
  };
}

/** One after the other: what comes next on the device may change them. */
function copyAll(to: readonly Tensor[], from: readonly Tensor[]): void {
  for (const [index, target] of to.entries()) startCopy(target, from[index]!).wait();
}
