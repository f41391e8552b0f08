import { createHash } from "node:crypto";
import { expect, it } from "vitest";
import { arange, zeros } from "../../torch/create.ts";
import { memoryStats, resetPeak } from "../../torch/device.ts";
import { ALONE, type Peers, type Pending, plannedPeers } from "../../torch/peers/peers.ts";
import { dispose, keep, scope, type Tensor } from "../../torch/tensor.ts";
import { gradientCopies } from "./gradientBackup.ts";
import { createGradientSum, type GradientSum, type LayerGradient } from "./gradientSum.ts";

/** More than two buckets together; none is a multiple of four. */
const SHAPES = [[3, 7], [2 ** 21 + 5], [1], [2 ** 20, 2], [999]];

/** Doubles of ranks in one process. They meet in each collective: all start it before anyone waits. */
function doubles(count: number): { peers: Peers[]; meet: (pending: Pending[]) => void } {
  const started: { kind: "exchange" | "gather"; from: Tensor; into: Tensor }[] = [];
  const start =
    (kind: "exchange" | "gather") =>
    (from: Tensor, into: Tensor): Pending => {
      started.push({ kind, from: keep(from.detach()), into: keep(into.detach()) });
      return { wait() {}, isDone: true, arrival: () => Promise.resolve(), [Symbol.dispose]() {} };
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

/** A layer each. */
function layered(gradients: readonly Tensor[]): LayerGradient[] {
  return gradients.map((gradient, layer) => ({ gradient, layer }));
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
  const sums = peers.map((each, rank) =>
    createGradientSum(each, layered(gradients[rank]!), { exact: false }),
  );
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
    const sums = peers.map((each, rank) =>
      createGradientSum(each, layered(gradients[rank]!), { exact: true }),
    );
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
  using sum = createGradientSum(ALONE, layered(gradients), { exact: true });
  resetPeak("cpu");
  const before = memoryStats("cpu").peakBytes;
  for (const pending of [...sum.add(), ...sum.finish()]) pending.wait();
  expect(memoryStats("cpu").peakBytes).toBe(before);
  dispose(gradients);
});

/** Two ranks whose collectives arrive only when told to. */
function lateDoubles(): ReturnType<typeof doubles> & { started: () => string[] } {
  const { peers, meet } = doubles(2);
  const started: string[] = [];
  const late = peers.map((own, rank): Peers => {
    const named =
      (kind: "exchange" | "gather") =>
      (from: Tensor, into: Tensor): Pending => {
        started.push(`${rank} ${kind}`);
        let arrived = false;
        arrivals.push(() => {
          arrived = true;
        });
        const pending = own[kind](from, into);
        return Object.defineProperty(pending, "isDone", { get: () => arrived });
      };
    return { ...own, exchange: named("exchange"), gather: named("gather") };
  });
  const arrivals: (() => void)[] = [];
  const arrive = (pending: Pending[]): void => {
    meet(pending);
    for (const each of arrivals.splice(0)) each();
  };
  return { peers: late, meet: arrive, started: () => started.splice(0) };
}

const OVERLAPPED = { exact: false, overlaps: true };

it("begins with a bucket when its layers are done and the one before has arrived, on all ranks alike", () => {
  const gradients = [0, 1].map(gradientsOf);
  const expected = scope(() =>
    SHAPES.map((_, index) => hashOf(gradients[0]![index]!.clone().add_(gradients[1]![index]!))),
  );
  const { peers, meet, started } = lateDoubles();
  const sums = peers.map((each, rank) => createGradientSum(each, layered(gradients[rank]!), OVERLAPPED));
  sums[0]!.begin(4); // layer 4 alone is too little for a bucket
  expect(started()).toEqual([]);
  for (const sum of sums) sum.begin(3);
  expect(started()).toEqual(["0 exchange", "1 exchange"]);
  sums[0]!.begin(2);
  expect(started()).toEqual([]); // nothing has arrived
  meet([]);
  for (const sum of sums) sum.begin(2);
  meet([]);
  for (const sum of sums) sum.begin(1);
  expect(started()).toEqual(["0 gather", "1 gather", "0 exchange", "1 exchange"]);
  meet([]);
  drive(sums, "finish", meet);
  for (const own of gradients) expect(valuesOf(own)).toEqual(expected);
  for (const sum of sums) sum[Symbol.dispose]();
  dispose(gradients);
});

it.each(["while an exchange is under way", "while a gather is under way", "between two buckets"])(
  "a micro-batch that is repeated %s, even twice, counts once on every rank",
  (when) => {
    const before = memoryStats("cpu").liveBytes;
    const gradients = [0, 1].map(gradientsOf);
    const earlier = [2, 3].map(gradientsOf);
    const own = gradients.map((each) => each.map((gradient) => keep(gradient.clone())));
    const expected = scope(() =>
      SHAPES.map((_, index) =>
        hashOf(own[0]![index]!.add(earlier[0]![index]!).add_(own[1]![index]!.add(earlier[1]![index]!))),
      ),
    );
    // the gradients of earlier micro-batches, then the one under way
    const backups = gradients.map((each) => gradientCopies(each, "device"));
    const set = (rank: number): void =>
      scope(() => gradients[rank]!.forEach((gradient, index) => void gradient.copy_(earlier[rank]![index]!)));
    const compute = (rank: number, from: number, to = SHAPES.length): void =>
      scope(() => {
        for (let at = from; at < to; at++) gradients[rank]![at]!.add_(own[rank]![at]!);
      });
    for (const rank of [0, 1]) {
      set(rank);
      backups[rank]!.save();
      compute(rank, 1);
    }
    const { peers, meet } = lateDoubles();
    const sums = peers.map((each, rank) => createGradientSum(each, layered(gradients[rank]!), OVERLAPPED));
    const goOn = (): void => {
      for (const sum of sums) sum.begin(1);
      meet([]);
    };
    for (const sum of sums) sum.begin(1);
    if (when === "while a gather is under way") {
      meet([]);
      for (const sum of sums) sum.begin(1);
    } else if (when === "between two buckets") {
      meet([]);
      goOn();
      for (const sum of sums) sum.begin(1);
    }
    for (const attempt of [1, 2]) {
      sums[0]!.undo(backups[0]!);
      compute(0, attempt === 1 ? 1 : 0); // the first attempt does not reach layer 0
      sums[0]!.begin(1);
    }
    compute(1, 0, 1);
    meet([]);
    drive(sums, "finish", meet);
    for (const each of gradients) expect(valuesOf(each)).toEqual(expected);
    for (const each of [...sums, ...backups]) each[Symbol.dispose]();
    dispose([gradients, earlier, own]);
    expect(memoryStats("cpu").liveBytes).toBe(before);
  },
);
