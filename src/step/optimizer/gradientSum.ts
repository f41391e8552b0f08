/**
 * Adds up the LoRA gradients of all ranks, in the order of ranks and in float32: each rank adds up a part of
 * the elements and the parts are gathered. So every rank has the same bits, however the transport adds up.
 *
 * The last micro-batch's backward pass makes gradients final from the last layer to the first. Buckets go
 * round in this order, and may do so beside the rest of the backward pass.
 *
 * Its buffers are held for the whole run, so that no rank can run out of memory between two collectives.
 */
import { empty } from "../../torch/create.ts";
import { category, computesBeside } from "../../torch/device.ts";
import type { Peers, Pending } from "../../torch/peers/peers.ts";
import { besideComputation, joinSide } from "../../torch/sideStream.ts";
import { dispose, keep, scope, type Tensor } from "../../torch/tensor.ts";
import { type Policy, placesOf } from "../policy.ts";
import type { GradientBackup, GradientPart } from "./gradientBackup.ts";
import { flatSpan } from "./moments.ts";

/** Elements that go round at a time: 8 MiB. Two buffers have this size. */
const BUCKET_ELEMENTS = 2 ** 21;
/**
 * A bucket of so many elements for each 16 ranks ends with its layer, so that it need not wait for the next:
 * 1 MiB. Each bucket costs as many hops as there are ranks, so many ranks need larger ones.
 */
const LEAST_ELEMENTS = 2 ** 18;
const RANKS_OF_LEAST = 16;

export interface GradientSum extends Disposable {
  /**
   * Adds each rank's gradients to the sum, and makes them zero. Yields collectives; the caller waits for each
   * before it goes on. Only with `exact`.
   */
  add(): Generator<Pending, void>;
  /** Replaces the gradients by the sum of all ranks', on every rank. Yields collectives as `add` does. */
  finish(): Generator<Pending, void>;
  /**
   * Starts what can be started of `finish` without waiting for other ranks: the gradients of `layer` and of
   * the layers after it are final. Does nothing without `overlaps`.
   */
  begin(layer: number): void;
  /**
   * Gives the gradients back what they were before a micro-batch that is computed again. What has begun to go
   * round stays: those gradients were final, and other ranks have them. `finish` brings their sum back.
   */
  undo(backup: GradientBackup): void;
}

export interface LayerGradient {
  gradient: Tensor;
  layer: number;
}

/** Facts of a run by ranks that decide when its gradients are added up. */
export interface Summing {
  policy: Policy;
  exactSum: boolean;
  /** Whether ranks share the rows of micro-batches. */
  sharesRows: boolean;
  /** Whether the run keeps a copy of its gradients, which `undo` needs. */
  keepsCopy: boolean;
}

/**
 * Whether gradients are added up beside the last backward pass. A pass that has collectives of its own leaves
 * them alone: their order would depend on when the ranks' collectives arrive.
 */
export function sumOverlaps({ policy, exactSum, sharesRows, keepsCopy }: Summing): boolean {
  return keepsCopy && !exactSum && !sharesRows && !Object.values(placesOf(policy)).includes("shared");
}

export interface GradientSumOptions {
  /** Gradients are added up several times a step. The sum is kept between: 1 / ranks of them, in float32. */
  exact: boolean;
  /** See sumOverlaps. */
  overlaps?: boolean;
}

interface Bucket {
  pieces: Piece[];
  /** The first layer that it has gradients of. */
  layer: number;
  /** With zeros at the end, so that all ranks have equal parts. */
  elements: number;
}

/** Elements of one gradient, and their place in a bucket. */
interface Piece extends GradientPart {
  at: number;
}

/** Makes the buffers of a sum. */
export function createGradientSum(
  peers: Peers,
  gradients: readonly LayerGradient[],
  { exact, overlaps = false }: GradientSumOptions,
): GradientSum {
  const buckets = bucketsOf(gradients, peers.count);
  const most = buckets.reduce((elements, bucket) => Math.max(elements, bucket.elements), 0);
  const device = gradients[0]?.gradient.device ?? "cpu";
  const room = (elements: number): Tensor => empty([elements], { dtype: "float32", device });
  const { own, parts, sums } = category("loraGradients", () =>
    keep(
      scope(() => ({
        own: room(most),
        parts: room(most),
        sums: exact ? buckets.map(({ elements }) => room(elements / peers.count).zero_()) : [],
      })),
    ),
  );
  const all = { peers, own, parts };
  const ofStep = new OverlappedSum(all, buckets);
  return {
    *add() {
      for (const [index, bucket] of buckets.entries()) {
        yield exchanged(all, bucket);
        scope(() => addParts_(sums[index]!, parts, peers.count));
      }
      scope(() => gradients.forEach(({ gradient }) => void gradient.zero_()));
    },
    *finish() {
      if (!exact) return yield* ofStep.finish();
      for (const [index, bucket] of buckets.entries()) {
        yield gathered(all, bucket, sums[index]);
        scope(() => unpack(bucket, own));
      }
      scope(() => sums.forEach((sum) => void sum.zero_()));
    },
    begin: (layer) => overlaps && ofStep.begin(layer),
    undo: (backup) => ofStep.undo(backup),
    [Symbol.dispose]: () => dispose([own, parts, sums]), // what is under way keeps its own hold of them
  };
}

/** The sum of one step, which goes on while the backward pass computes. */
class OverlappedSum {
  readonly #all: Buffers;
  readonly #buckets: readonly Bucket[];
  #way: Generator<Bucket | Pending, void>;
  /** The next bucket, or the collective under way; undefined before the first. */
  #now: IteratorResult<Bucket | Pending, void> | undefined;
  /** Collectives started, and buckets whose sum has replaced the gradients. */
  #started = 0;
  #summed = 0;
  /** Set while the micro-batch is computed again; it has the sums of `kept`. */
  #repeated: { backup: GradientBackup; kept: GradientPart[] } | undefined;

  constructor(all: Buffers, buckets: readonly Bucket[]) {
    this.#all = all;
    this.#buckets = buckets;
    this.#way = this.#steps();
  }

  begin(layer: number): void {
    if (this.#repeated) return;
    besideComputation(this.#device, () => {
      this.#now ??= this.#way.next();
      while (!this.#now.done) {
        const { value } = this.#now;
        if (isBucket(value) ? value.layer < layer : !this.#isThere(value)) return;
        if (!isBucket(value)) value.wait();
        this.#now = this.#way.next();
      }
    });
  }

  *finish(): Generator<Pending, void> {
    joinSide(this.#device);
    const { backup, kept } = this.#repeated ?? {};
    backup?.restoreParts(kept!);
    this.#now ??= this.#way.next();
    while (!this.#now.done) {
      if (!isBucket(this.#now.value)) yield this.#now.value;
      this.#now = this.#way.next();
    }
    this.#way = this.#steps();
    this.#now = this.#repeated = undefined;
    this.#started = this.#summed = 0;
  }

  undo(backup: GradientBackup): void {
    if (this.#started > 0 && !this.#repeated) {
      joinSide(this.#device);
      const kept = this.#buckets.slice(0, this.#summed).flatMap(({ pieces }) => pieces);
      backup.saveParts(kept);
      this.#repeated = { backup, kept };
    }
    backup.restore();
  }

  get #device(): Tensor["device"] {
    return this.#all.own.device;
  }

  /** Yields each bucket before it goes round, then its two collectives. */
  *#steps(): Generator<Bucket | Pending, void> {
    for (const bucket of this.#buckets) {
      yield bucket;
      this.#started++;
      yield exchanged(this.#all, bucket);
      yield gathered(this.#all, bucket, undefined);
      scope(() => unpack(bucket, this.#all.own));
      this.#summed++;
    }
  }

  /** On a card it is the side stream that waits, not the host. */
  #isThere(collective: Pending): boolean {
    return computesBeside(this.#device) || collective.isDone;
  }
}

function isBucket(value: Bucket | Pending): value is Bucket {
  return "pieces" in value;
}

interface Buffers {
  peers: Peers;
  /** This rank's gradients of a bucket; at last the sum. */
  own: Tensor;
  /** This rank's part of the bucket, from each rank. */
  parts: Tensor;
}

function exchanged({ peers, own, parts }: Buffers, bucket: Bucket): Pending {
  return scope(() => {
    pack(bucket, own);
    return peers.exchange(own.narrow(0, 0, bucket.elements), parts.narrow(0, 0, bucket.elements));
  });
}

/** sum: of this rank's part; undefined: the parts are to be added up first. */
function gathered({ peers, own, parts }: Buffers, { elements }: Bucket, sum: Tensor | undefined): Pending {
  return scope(() => {
    const each = elements / peers.count;
    const part = sum ?? parts.narrow(0, 0, each);
    if (!sum) for (let rank = 1; rank < peers.count; rank++) part.add_(parts.narrow(0, rank * each, each));
    return peers.gather(part, own.narrow(0, 0, elements));
  });
}

/** Adds the parts of all ranks one after the other. */
function addParts_(sum: Tensor, parts: Tensor, ranks: number): void {
  for (let rank = 0; rank < ranks; rank++) sum.add_(parts.narrow(0, rank * sum.numel, sum.numel));
}

function pack({ pieces, elements }: Bucket, into: Tensor): void {
  let end = 0;
  for (const { gradient, span, at } of pieces) {
    into.narrow(0, at, span.elements).copy_(flatSpan(gradient, span));
    end = at + span.elements;
  }
  if (end < elements) into.narrow(0, end, elements - end).zero_();
}

function unpack({ pieces }: Bucket, from: Tensor): void {
  for (const { gradient, span, at } of pieces)
    flatSpan(gradient, span).copy_(from.narrow(0, at, span.elements));
}

/** Cuts the gradients, those of the last layer first, into buckets. */
function bucketsOf(gradients: readonly LayerGradient[], ranks: number): Bucket[] {
  const buckets: Bucket[] = [];
  const leastElements = LEAST_ELEMENTS * Math.ceil(ranks / RANKS_OF_LEAST);
  let [free, before] = [0, Number.NaN];
  for (const { gradient, layer } of gradients.toSorted((one, other) => other.layer - one.layer)) {
    if (layer !== before && BUCKET_ELEMENTS - free >= leastElements) free = 0;
    before = layer;
    for (let start = 0; start < gradient.numel; ) {
      if (free === 0) {
        buckets.push({ pieces: [], layer, elements: 0 });
        free = BUCKET_ELEMENTS;
      }
      const elements = Math.min(free, gradient.numel - start);
      const bucket = buckets.at(-1)!;
      bucket.pieces.push({ gradient, span: { start, elements }, at: BUCKET_ELEMENTS - free });
      free -= elements;
      start += elements;
      bucket.layer = layer;
      bucket.elements = Math.ceil((BUCKET_ELEMENTS - free) / ranks) * ranks;
    }
  }
  return buckets;
}
