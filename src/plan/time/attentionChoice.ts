/**
 * Chooses a card's attention kernel for a run. At the start of a run each kernel is timed, forward and
 * backward, on lengths like the run's. The result is kept by card, driver, libtorch and class of shape.
 */
import { messageOf, UserError } from "../../errors.ts";
import type { ModelConfig } from "../../models/family.ts";
import { headsOfPacked } from "../../nn/attention/calls.ts";
import { CARD_KERNELS, type CardKernel } from "../../nn/attention/cardKernels.ts";
import {
  type AttentionShape,
  kernelBackward_,
  kernelForward,
  kernelsOf,
  packedLengths,
} from "../../nn/attention/kernels.ts";
import type { Policy } from "../../step/policy.ts";
import { empty } from "../../torch/create.ts";
import { cardInfo, emptyCache, libtorchVersion, OutOfMemoryError, synchronize } from "../../torch/device.ts";
import { type Device, type DType, isCard } from "../../torch/dtypes.ts";
import { driverVersion } from "../../torch/install/driver.ts";
import { scope, type Tensor } from "../../torch/tensor.ts";
import { type Card, capabilityOf, findDevice } from "./cards.ts";
import { knownIn, remembered } from "./remembered.ts";

/** The attention that a kernel is chosen for. */
export interface AttentionUse {
  config: Pick<ModelConfig, "heads" | "kvHeads" | "headDim">;
  dtype: DType;
  /** Tokens of the longest micro-batch. */
  tokens: number;
  /** Whether several samples share a micro-batch. */
  packed: boolean;
}

/** Lengths of samples that stand for a run's. */
export type Lengths = readonly number[];

/**
 * One kernel's result on samples of some lengths: its time, and the relative difference of its gradients to
 * those of the rule's kernel.
 */
export interface Trial {
  ms: number;
  difference: number;
}

/** Milliseconds, or why the kernel cannot be chosen. */
export type Timing = { ms: number } | { failed: string };

export interface Choice {
  kernel: CardKernel;
  timings: Partial<Record<CardKernel, Timing>>;
}

/** The card on which kernels are compared, or a stand-in for it in tests. */
export interface Bench {
  card: string;
  /** The kernels that should work, the rule's first. */
  kernels: readonly CardKernel[];
  /** Runs a kernel. Throws if the kernel cannot handle these lengths. */
  trial: (kernel: CardKernel, lengths: Lengths) => Trial;
  folder?: string;
}

/**
 * The shortest and longest length classes that are timed. Beyond them the order of the kernels stays the
 * same.
 */
const CLASS_TOKENS = { least: 512, most: 8192 };
const PACKED_SAMPLES = 8;
/** Largest relative difference that half precision explains. A kernel that differs more is not trusted. */
const MOST_DIFFERENCE = 0.03;

/**
 * Returns the kernel of a run: the one that its policy names, otherwise the fastest, which is reported. On
 * the CPU it stays "measured".
 */
export function settledAttention(
  wanted: Policy["attention"],
  device: Device,
  use: AttentionUse,
  notice: (text: string) => void,
): Policy["attention"] {
  if (!isCard(device)) return wanted;
  const bench = cardBench(device, use);
  if (wanted !== "measured") {
    refuseUnknown(wanted, bench);
    return wanted;
  }
  if (timed(bench.kernels).length === 1) return bench.kernels[0]!;
  try {
    const { choice, isNew } = chooseAttention(use, bench);
    const when = isNew ? "timed now" : "as timed here before";
    notice(`attention: ${choice.kernel}, ${when}: ${inWords(choice)}`);
    return choice.kernel;
  } catch (error) {
    if (!(error instanceof OutOfMemoryError)) throw error;
    notice(`attention: ${bench.kernels[0]}, because there was no memory to time the card's kernels`);
    return bench.kernels[0]!;
  }
}

/**
 * Returns the fastest working kernel, from the last time that a run of this class was timed on this machine.
 */
export function chooseAttention(use: AttentionUse, bench: Bench): { choice: Choice; isNew: boolean } {
  const key = [bench.card, shapeKey(use)].join(", ");
  const tokens = classTokens(use.tokens);
  const { value, isNew } = remembered(CACHE_FILE, key, () => measured(tokens, use.packed, bench), {
    ...(bench.folder !== undefined && { folder: bench.folder }),
    valid: ({ kernel }) => bench.kernels.includes(kernel),
  });
  return { choice: value, isNew };
}

const CACHE_FILE = "attention.json";

/** Returns a key of the attention use, without the card. */
function shapeKey({ config: { heads, kvHeads, headDim }, dtype, tokens, packed }: AttentionUse): string {
  return [dtype, heads, kvHeads, headDim, classTokens(tokens), packed ? "packed" : "single"].join(", ");
}

/** Returns this machine's driver and libtorch. A choice made under other versions is made again. */
const present = (): { driver: string; libtorch: string } => ({
  driver: driverVersion(),
  libtorch: libtorchVersion(),
});

/**
 * Returns the choice of a run on this machine for a card of the table; undefined if there is none, or if it
 * would be made again.
 */
export function knownChoice(
  use: AttentionUse,
  card: Card,
  { driver, libtorch, folder }: { driver: string; libtorch: string; folder?: string } = present(),
): Choice | undefined {
  const kernels = kernelsOf(capabilityOf(card), use.dtype);
  const found = Object.entries(knownIn<Choice>(CACHE_FILE, folder)).find(
    ([key, { kernel }]) =>
      key.endsWith(`, ${suffixOf({ driver, libtorch })}, ${shapeKey(use)}`) &&
      isCalled(key.split(", driver ")[0]!, card) &&
      kernels.includes(kernel),
  );
  return found?.[1];
}

function isCalled(name: string, card: Card): boolean {
  try {
    return findDevice(name).title === card.title; // a MIG instance has its card's name
  } catch (unknown) {
    if (unknown instanceof UserError) return false;
    throw unknown;
  }
}

function suffixOf({ driver, libtorch }: { driver: string; libtorch: string }): string {
  return `driver ${driver}, libtorch ${libtorch}`;
}

/** Returns, for example, "flash 1.20 ms, cudnn 0.90 ms, efficient failed (...)". */
export function inWords({ timings }: Choice): string {
  const words = CARD_KERNELS.flatMap((kernel) => {
    const timing = timings[kernel];
    if (!timing) return [];
    return "ms" in timing ? `${kernel} ${timing.ms.toFixed(2)} ms` : `${kernel} failed (${timing.failed})`;
  });
  return words.join(", ");
}

/** Returns the next power of two, within the classes that are timed. */
export function classTokens(tokens: number): number {
  const { least, most } = CLASS_TOKENS;
  return Math.min(most, Math.max(least, 2 ** Math.ceil(Math.log2(tokens))));
}

/** Returns the lengths to time: one long and one short sample, or several samples if the run packs. */
function lengthsOfClass(tokens: number, packed: boolean): Lengths[] {
  const several = Array.from({ length: PACKED_SAMPLES }, () => tokens / PACKED_SAMPLES);
  return packed ? [several, [tokens / 2, tokens / 4, tokens / 4]] : [[tokens], [tokens / 4]];
}

function measured(tokens: number, packed: boolean, { kernels, trial }: Bench): Choice {
  const timings: Choice["timings"] = {};
  for (const kernel of timed(kernels)) {
    try {
      const trials = lengthsOfClass(tokens, packed).map((lengths) => trial(kernel, lengths));
      const difference = Math.max(...trials.map((each) => each.difference));
      timings[kernel] =
        difference <= MOST_DIFFERENCE // false for NaN
          ? { ms: trials.reduce((sum, { ms }) => sum + ms, 0) }
          : { failed: `its gradients are off by ${difference.toPrecision(2)}` };
    } catch (error) {
      if (error instanceof OutOfMemoryError) throw error; // says nothing about the kernel
      timings[kernel] = { failed: messageOf(error).split("\n")[0]! };
    }
  }
  const msOf = (kernel: CardKernel): number => {
    const timing = timings[kernel];
    return timing && "ms" in timing ? timing.ms : Number.POSITIVE_INFINITY;
  };
  const kernel = kernels.reduce((best, other) => (msOf(other) < msOf(best) ? other : best));
  return { kernel, timings };
}

/**
 * Leaves out `products`, which launch thousands of operators a sample: they run only if a policy names them.
 */
function timed(kernels: readonly CardKernel[]): CardKernel[] {
  return kernels.filter((kernel) => kernel !== "products");
}

function refuseUnknown(kernel: CardKernel, { card, kernels }: Bench): void {
  if (kernels.includes(kernel)) return;
  throw new UserError(
    `The policy names the attention kernel "${kernel}", which this card does not have: ${card}.`,
    {
      fix: `Name ${kernels.map((name) => `"${name}"`).join(", ")} or "measured".`,
    },
  );
}

function cardBench(device: `cuda:${number}`, use: AttentionUse): Bench {
  const { name, capability } = cardInfo(device);
  const kernels = kernelsOf(capability, use.dtype);
  return {
    card: `${name}, ${suffixOf(present())}`,
    kernels,
    trial: (kernel, lengths) => {
      try {
        return kernelTrial(device, use, { kernel, rule: kernels[0]! }, lengths);
      } finally {
        emptyCache(device); // so that the run can be planned with this memory
      }
    },
  };
}

const ROUNDS = 3;

/**
 * Runs a kernel forward and backward on random heads. Returns the best time of a few rounds, after one round
 * that compares its gradients with those of the rule's kernel.
 */
export function kernelTrial(
  device: Device,
  { config, dtype }: AttentionUse,
  { kernel, rule }: { kernel: CardKernel; rule: CardKernel },
  lengths: Lengths,
): Trial {
  return scope(() => {
    const { headDim: D, heads, kvHeads: G } = config;
    const Q = heads / G;
    const T = lengths.reduce((sum, length) => sum + length, 0);
    const shapeFor = (named: CardKernel): AttentionShape => {
      const shape = { Q, D, samples: samplesOf(lengths), kernel: named };
      return { ...shape, lengths: packedLengths(shape, { device, dtype }) };
    };
    const packed = empty([T, G, Q + 2, D], { dtype, device }).normal_(); // (T, G, Q+2, D)
    const dOut = empty([T, G, Q, D], { dtype, device }).normal_(); // (T, G, Q, D)
    const gradient = (shape: AttentionShape): Tensor => {
      const own = packed.clone();
      scope(() => {
        const of = headsOfPacked(own);
        kernelBackward_(of, dOut, kernelForward(of, shape), shape);
      });
      return own;
    };
    const shape = shapeFor(kernel);
    const difference = kernel === rule ? 0 : relative(gradient(shape), gradient(shapeFor(rule)));
    let ms = Number.POSITIVE_INFINITY;
    for (let round = 0; round <= ROUNDS; round++) {
      synchronize(device);
      const startMs = performance.now();
      scope(() => void gradient(shape));
      synchronize(device);
      if (round > 0) ms = Math.min(ms, performance.now() - startMs);
    }
    return { ms, difference };
  });
}

function samplesOf(lengths: Lengths): AttentionShape["samples"] {
  const ends = lengths.map((_, index) =>
    lengths.slice(0, index + 1).reduce((sum, length) => sum + length, 0),
  );
  return ends.map((end, index) => ({ start: end - lengths[index]!, end }));
}

function relative(actual: Tensor, right: Tensor): number {
  return scope(() => {
    const [a, b] = [actual, right].map((x) => x.to({ dtype: "float32" })) as [Tensor, Tensor];
    const norm = (x: Tensor): number => Math.sqrt(x.square().sum().item());
    return norm(a.sub(b)) / norm(b);
  });
}
