import { createHash } from "node:crypto";
import { expect, it } from "vitest";
import { arange, zeros } from "../../torch/create.ts";
import { memoryStats, resetPeak } from "../../torch/device.ts";
import { ALONE, type Peers, type Pending, plannedPeers } from "../../torch/peers/peers.ts";
import { dispose, keep, scope, type Tensor } from "../../torch/tensor.ts";
import { createGradientSum, type GradientSum } from "./gradientSum.ts";

/** More than two buckets together; none is a multiple of four. */
const SHAPES = [[3, 7], [2 ** 21 + 5], [1], [2 ** 20, 2], [999]];

/** Doubles of ranks in one process. They meet in each collective: all start it before anyone waits. */
function doubles(count: number): { peers: Peers[]; meet: (pending: Pending[]) => void } {
  const started: { kind: "exchange" | "gather"; from: Tensor; into: Tensor }[] = [];
  const start =
    (kind: "exchange" | "gather") =>
    (from: Tensor, into: Tensor): Pending => {
      started.push({ kind, from: keep(from.detach()), into: keep(into.detach()) });
      return { wait() {}, arrival: () => Promise.resolve(), [Symbol.dispose]() {} };
    };
  const peers = Array.from(
    { length: count },
    (_, rank): Peers => ({
      ...plannedPeers(rank, count),
      exchange: start("exchange"),
      gather: start("gather"),
    }),
  );
  const meet = (): void => {
    scope(() => {
      const copies = started.map(({ from }) => from.clone());
      for (const [rank, { kind, into }] of started.entries())
        for (const [other, copy] of copies.entries()) {
          const each = into.numel / count;
          const part = kind === "gather" ? copy : copy.narrow(0, rank * each, each);
          into.narrow(0, other * each, each).copy_(part);
        }
    });
    for (const { from, into } of started.splice(0)) dispose([from, into]);
  };
  return { peers, meet };
}

function drive(
  sums: readonly GradientSum[],
  way: "add" | "finish",
  meet: (pending: Pending[]) => void,
): void {
  const all = sums.map((sum) => sum[way]());
  for (;;) {
    const next = all.map((each) => each.next());
    if (next.some(({ done }) => done)) {
      expect(next.every(({ done }) => done)).toBe(true);
      return;
    }
    meet(next.map(({ value }) => value as Pending));
  }
}

function gradientsOf(rank: number): Tensor[] {
  return SHAPES.map((shape, index) =>
    keep(
      scope(() => {
        const numel = shape.reduce((product, extent) => product * extent, 1);
        return arange(numel)
          .to({ dtype: "float32" })
          .mul_(0.37)
          .add_(index + 11 * rank)
          .sin()
          .view(shape);
      }),
    ),
  );
}

const hashOf = (tensor: Tensor): string => createHash("sha256").update(tensor.toBytes()).digest("hex"); // comparing 8 MiB element by element takes minutes
const valuesOf = (tensors: readonly Tensor[]): string[] => tensors.map(hashOf);

it.each([1, 2, 3, 5])("gives %i ranks the sum in the order of ranks, and the buffers back", (count) => {
  const before = memoryStats("cpu").liveBytes;
  const gradients = Array.from({ length: count }, (_, rank) => gradientsOf(rank));
  const expected = scope(() =>
    SHAPES.map((_, index) => {
      const sum = gradients[0]![index]!.clone();
      for (const own of gradients.slice(1)) sum.add_(own[index]!);
      return hashOf(sum);
    }),
  );
  const { peers, meet } = doubles(count);
  const sums = peers.map((each, rank) => createGradientSum(each, gradients[rank]!, { exact: false }));
  drive(sums, "finish", meet);
  for (const own of gradients) expect(valuesOf(own)).toEqual(expected);
  for (const sum of sums) sum[Symbol.dispose]();
  dispose(gradients);
  expect(memoryStats("cpu").liveBytes).toBe(before);
});

it("adds up rounds in order: any number of ranks has the bytes of one", () => {
  const micro = Array.from({ length: 6 }, (_, index) => index);
  const bytesOf = (count: number): string[] => {
    const { peers, meet } = doubles(count);
    const gradients = peers.map(() => SHAPES.map((shape) => keep(zeros(shape))));
    const sums = peers.map((each, rank) => createGradientSum(each, gradients[rank]!, { exact: true }));
    for (let round = 0; round < micro.length / count; round++) {
      for (const [rank, own] of gradients.entries()) {
        const computed = gradientsOf(micro[round * count + rank]!);
        scope(() => own.forEach((gradient, index) => void gradient.copy_(computed[index]!)));
        dispose(computed);
      }
      drive(sums, "add", meet);
    }
    drive(sums, "finish", meet);
    const bytes = valuesOf(gradients.at(-1)!);
    for (const sum of sums) sum[Symbol.dispose]();
    dispose(gradients);
    return bytes;
  };
  const one = bytesOf(1);
  for (const count of [2, 3, 6]) expect(bytesOf(count)).toEqual(one);
});

it("allocates nothing after it was made", () => {
  const gradients = gradientsOf(1);
  using sum = createGradientSum(ALONE, gradients, { exact: true });
  resetPeak("cpu");
  const before = memoryStats("cpu").peakBytes;
  for (const pending of [...sum.add(), ...sum.finish()]) pending.wait();
  expect(memoryStats("cpu").peakBytes).toBe(before);
  dispose(gradients);
});
