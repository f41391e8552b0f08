/**
 * Adds up the LoRA gradients of all ranks, in the order of ranks and in float32: each rank adds up a part of
 * the elements and the parts are gathered. So every rank has the same bits, however the transport adds up.
 *
 * Its buffers are held for the whole run, so that no rank can run out of memory between two collectives.
 */
import { empty } from "../../torch/create.ts";
import { category } from "../../torch/device.ts";
import type { Peers, Pending } from "../../torch/peers/peers.ts";
import { dispose, keep, scope, type Tensor } from "../../torch/tensor.ts";
import { flatSpan, type Span } from "./moments.ts";

/** Elements that go round at a time: 8 MiB. Two buffers have this size. */
const BUCKET_ELEMENTS = 2 ** 21;

export interface GradientSum extends Disposable {
  /**
   * Adds each rank's gradients to the sum, and makes them zero. Yields collectives; the caller waits for each
   * before it goes on. Only with `exact`.
   */
  add(): Generator<Pending, void>;
  /** Replaces the gradients by the sum of all ranks', on every rank. Yields collectives as `add` does. */
  finish(): Generator<Pending, void>;
}

/** Elements of one gradient, and their place in a bucket. */
interface Piece {
  gradient: Tensor;
  span: Span;
  at: number;
}

interface Bucket {
  pieces: Piece[];
  /** With zeros at the end, so that all ranks have equal parts. */
  elements: number;
}

/**
 * Makes the buffers of a sum. exact: gradients are added up several times a step. The sum is kept between:
 * 1 / ranks of the gradients, in float32.
 */
export function createGradientSum(
  peers: Peers,
  gradients: readonly Tensor[],
  { exact }: { exact: boolean },
): GradientSum {
  const buckets = bucketsOf(gradients, peers.count);
  const most = buckets.reduce((elements, bucket) => Math.max(elements, bucket.elements), 0);
  const device = gradients[0]?.device ?? "cpu";
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
  return {
    *add() {
      for (const [index, bucket] of buckets.entries()) {
        yield exchanged(all, bucket);
        scope(() => addParts_(sums[index]!, parts, peers.count));
      }
      scope(() => gradients.forEach((gradient) => void gradient.zero_()));
    },
    *finish() {
      for (const [index, bucket] of buckets.entries()) {
        if (!exact) yield exchanged(all, bucket);
        yield gathered(all, bucket, sums[index]);
        scope(() => unpack(bucket, own));
      }
      scope(() => sums.forEach((sum) => void sum.zero_()));
    },
    [Symbol.dispose]: () => dispose([own, parts, sums]),
  };
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

/** Cuts the gradients, one after the other, into buckets. */
function bucketsOf(gradients: readonly Tensor[], ranks: number): Bucket[] {
  const buckets: Bucket[] = [];
  let free = 0;
  for (const gradient of gradients) {
    for (let start = 0; start < gradient.numel; ) {
      if (free === 0) {
        buckets.push({ pieces: [], elements: 0 });
        free = BUCKET_ELEMENTS;
      }
      const elements = Math.min(free, gradient.numel - start);
      const bucket = buckets.at(-1)!;
      bucket.pieces.push({ gradient, span: { start, elements }, at: BUCKET_ELEMENTS - free });
      free -= elements;
      start += elements;
      bucket.elements = Math.ceil((BUCKET_ELEMENTS - free) / ranks) * ranks;
    }
  }
  return buckets;
}
