/**
 * The seam between processes that train together. Callers never ask how many there are: one process is the
 * identity, and a plan's double sends nothing.
 *
 * All ranks must start the same collectives in the same order. Every collective works in place on contiguous
 * tensors and allocates nothing, so a plan of one rank counts what each rank measures.
 */
import type { DType } from "../dtypes.ts";
import { keep, scope, type Tensor } from "../tensor.ts";
import { type Collective, countCollective } from "../trace.ts";

/** Plain data, as JSON has it. */
export type Json =
  | null
  | boolean
  | number
  | string
  | readonly Json[]
  | { readonly [key: string]: Json | undefined };

/**
 * A collective in progress. It keeps its tensors alive until somebody waits for it, on every device. So a
 * plan and a run free memory at the same point. Until then, write to none of its tensors, and do not read the
 * ones that it fills. Disposing waits too if nobody has, and throws nothing.
 */
export interface Pending extends Disposable {
  /**
   * Makes the result visible to operators that run after this call. Blocks on the CPU; on a card the stream
   * waits instead. Throws the collective's error.
   */
  wait(): void;
  /** Whether the host need not wait for the result, also if waiting would throw. */
  readonly isDone: boolean;
  /**
   * Resolves when the host can read the result, without blocking the event loop, or rejects with the
   * collective's error. `wait` then returns at once.
   */
  arrival(): Promise<void>;
}

/** The processes that train together, as one of them sees them. */
export interface Peers {
  readonly rank: number;
  readonly count: number;
  /** Replaces x by its sum over all ranks, with the same bits on every rank. SUMMED has the dtypes. */
  sum(x: Tensor): Pending;
  /**
   * Fills part r of `into` with the `part` of rank r. `into` has the elements of all parts, and any dtype:
   * only bytes move. `part` may be this rank's own part of `into`; then nothing is copied.
   */
  gather(part: Tensor, into: Tensor): Pending;
  /** Fills part r of `into` with part `rank` of `from` on rank r. Both have `count` equal parts. */
  exchange(from: Tensor, into: Tensor): Pending;
  /** Replaces x by the x of rank `from`; any dtype. */
  broadcast(x: Tensor, from: number): Pending;
  /** Returns the largest of all ranks' numbers; NaN if any is NaN. */
  most(value: number): Promise<number>;
  /**
   * Returns every rank's value, by rank. For small facts: they go through the store, not through tensors.
   * `key` says what is told; it must be the same on all ranks.
   */
  tell(key: string, value: Json): Promise<Json[]>;
  /** Resolves when every rank has come here. */
  barrier(): Promise<void>;
}

/** Dtypes that ranks can add up. All others can only be moved. */
export const SUMMED: ReadonlySet<DType> = new Set<DType>([
  "float32",
  "float64",
  "bfloat16",
  "float16",
  "int8",
  "uint8",
  "int32",
  "int64",
]);

/** A process by itself. Everything is done when it returns. */
export const ALONE: Peers = {
  ...plannedPeers(0, 1),
  gather(part, into) {
    checkGather(1, part, into);
    copyFlat(into, part);
    return heldUntilWait(part, into);
  },
  exchange(from, into) {
    checkExchange(1, from, into);
    copyFlat(into, from);
    return heldUntilWait(from, into);
  },
};

/**
 * Returns the double of rank `rank` of `count` for a plan. It accepts what a rank accepts, sends nothing, and
 * like a rank allocates nothing and keeps tensors until somebody waits. Other ranks' facts are taken to be
 * this rank's own.
 */
export function plannedPeers(rank: number, count: number): Peers {
  const countedHeld = (kind: Collective, reads: Tensor[], result: Tensor): Pending => {
    if (count > 1) countCollective(kind, count, reads, result); // for a plan's time; costs nothing outside a plan
    return heldUntilWait(...new Set([...reads, result]));
  };
  return {
    rank,
    count,
    sum(x) {
      checkSum(x);
      return countedHeld("sum", [x], x);
    },
    gather(part, into) {
      checkGather(count, part, into);
      return countedHeld("gather", [part], into);
    },
    exchange(from, into) {
      checkExchange(count, from, into);
      return countedHeld("exchange", [from], into);
    },
    broadcast(x, from) {
      checkBroadcast(count, x, from);
      return countedHeld("broadcast", [x], x);
    },
    most: (value) => Promise.resolve(value),
    tell: (_key, value) => Promise.resolve(Array.from({ length: count }, () => value)),
    barrier: () => Promise.resolve(),
  };
}

function copyFlat(to: Tensor, from: Tensor): void {
  scope(() => {
    to.view([-1]).copy_(from.view([-1]));
  });
}

/** Returns the Pending of a collective that is done. It keeps the tensors' memory until somebody waits. */
function heldUntilWait(...tensors: Tensor[]): Pending {
  const held = tensors.map((tensor) => keep(tensor.detach()));
  const wait = (): void => {
    for (const tensor of held) tensor.dispose();
  };
  return { wait, isDone: true, arrival: () => Promise.resolve(), [Symbol.dispose]: wait };
}

export function checkSum(x: Tensor): void {
  if (!SUMMED.has(x.dtype)) throw new TypeError(`ranks can't add up ${x.dtype}`);
  checkContiguous("sum", x);
}

export function checkGather(count: number, part: Tensor, into: Tensor): void {
  if (part.dtype !== into.dtype || part.numel * count !== into.numel)
    throw new TypeError(`gather from ${count} ranks: ${into} does not have the elements of ${count} ${part}`);
  checkContiguous("gather", part, into);
}

export function checkExchange(count: number, from: Tensor, into: Tensor): void {
  if (from.dtype !== into.dtype || from.numel !== into.numel || from.numel % count !== 0)
    throw new TypeError(
      `exchange among ${count} ranks: ${from} and ${into} do not have ${count} equal parts`,
    );
  checkContiguous("exchange", from, into);
}

export function checkBroadcast(count: number, x: Tensor, from: number): void {
  if (!Number.isInteger(from) || from < 0 || from >= count)
    throw new RangeError(`broadcast from rank ${from}: there are ${count} ranks`);
  checkContiguous("broadcast", x);
}

function checkContiguous(what: string, ...tensors: Tensor[]): void {
  for (const tensor of tensors)
    if (!tensor.isContiguous) throw new TypeError(`${what} takes contiguous tensors, not ${tensor}`);
}
