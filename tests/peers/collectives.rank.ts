/** Every collective on every dtype; its results as bytes, and what it leaves behind. */
import { empty } from "../../src/torch/create.ts";
import { memoryStats, resetPeak } from "../../src/torch/device.ts";
import type { DType } from "../../src/torch/dtypes.ts";
import { native } from "../../src/torch/native.ts";
import type { Peers } from "../../src/torch/peers/peers.ts";
import type { Tensor } from "../../src/torch/tensor.ts";
import { tensorOf, valuesOf } from "./values.ts";

export interface Args {
  elements: number;
  summed: DType[];
  moved: DType[];
}

export interface Result {
  bytes: Record<string, string>;
  /** Most bytes that a collective held beyond its tensors. */
  extraBytes: number;
  leftBytes: number;
  leftTensors: number;
  pending: number;
}

export async function rank(peers: Peers, { elements, summed, moved }: Args): Promise<Result> {
  const { rank, count } = peers;
  const bytes: Record<string, string> = {};
  let extraBytes = 0;
  const [bytesBefore, tensorsBefore] = [memoryStats("cpu").liveBytes, native.liveTensors()];
  const measured = (name: string, result: Tensor, start: () => { wait(): void }): void => {
    const before = memoryStats("cpu").liveBytes;
    resetPeak("cpu");
    start().wait();
    extraBytes = Math.max(extraBytes, memoryStats("cpu").peakBytes - before);
    bytes[name] = Buffer.from(result.toBytes()).toString("hex");
  };
  for (const dtype of summed) {
    using x = tensorOf(valuesOf(rank, elements), dtype);
    measured(`sum ${dtype}`, x, () => peers.sum(x));
  }
  for (const dtype of moved) {
    using part = tensorOf(valuesOf(rank, elements), dtype);
    using into = empty([elements * count], { dtype });
    measured(`gather ${dtype}`, into, () => peers.gather(part, into));
    using own = into.narrow(0, rank * elements, elements);
    into.zero_();
    own.copy_(part);
    measured(`gather own ${dtype}`, into, () => peers.gather(own, into));
    using from = tensorOf(valuesOf(rank, elements * count), dtype);
    measured(`exchange ${dtype}`, into, () => peers.exchange(from, into));
    for (let root = 0; root < count; root++) {
      using x = tensorOf(valuesOf(rank, elements), dtype);
      measured(`broadcast ${root} ${dtype}`, x, () => peers.broadcast(x, root));
    }
  }
  return {
    ...{ bytes, extraBytes },
    leftBytes: memoryStats("cpu").liveBytes - bytesBefore,
    leftTensors: native.liveTensors() - tensorsBefore,
    pending: native.pendingCollectives(),
  };
}
