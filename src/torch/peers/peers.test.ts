import { expect, test } from "vitest";
import { empty, fromArray } from "../create.ts";
import { memoryStats } from "../device.ts";
import { keep, scope, type Tensor } from "../tensor.ts";
import { ALONE, plannedPeers } from "./peers.ts";

const values = (tensor: Tensor): number[] => [...tensor.toFloat32Array()];

test("one process is the identity: sums and broadcasts change nothing, gather and exchange copy", async () => {
  scope(() => {
    const x = fromArray([1, 2, 3, 4], [2, 2]);
    ALONE.sum(x).wait();
    ALONE.broadcast(x, 0).wait();
    expect(values(x)).toEqual([1, 2, 3, 4]);
    for (const collective of [ALONE.gather, ALONE.exchange]) {
      const into = empty([4]);
      collective(x, into).wait();
      expect(values(into)).toEqual([1, 2, 3, 4]);
      collective(into, into).wait();
      expect(values(into)).toEqual([1, 2, 3, 4]);
    }
  });
  expect([ALONE.rank, ALONE.count]).toEqual([0, 1]);
  expect(await ALONE.most(3)).toBe(3);
  expect(await ALONE.tell("facts", { a: 1 })).toEqual([{ a: 1 }]);
  await ALONE.barrier();
});

test("a planned rank allocates nothing and keeps the tensors' memory until somebody waits", async () => {
  const peers = plannedPeers(1, 4);
  const before = memoryStats("meta").liveBytes;
  const part = keep(empty([256], { device: "meta", dtype: "uint8" }));
  const into = keep(empty([1024], { device: "meta", dtype: "uint8" }));
  const held = memoryStats("meta").liveBytes;
  for (const start of [
    () => peers.sum(into),
    () => peers.gather(part, into),
    () => peers.exchange(into, into),
    () => peers.broadcast(into, 3),
  ])
    start().wait();
  expect(memoryStats("meta").liveBytes).toBe(held);
  const pending = peers.gather(part, into);
  part.dispose();
  into.dispose();
  await pending.arrival();
  expect(memoryStats("meta").liveBytes).toBe(held);
  pending[Symbol.dispose]();
  expect(memoryStats("meta").liveBytes).toBe(before);
  expect(await peers.tell("facts", 5)).toEqual([5, 5, 5, 5]);
});

test("a collective's wrong tensors are refused before anything is sent", () => {
  const peers = plannedPeers(0, 3);
  scope(() => {
    const meta = (shape: number[], dtype: "float32" | "float8_e4m3fn" = "float32") =>
      empty(shape, { device: "meta", dtype });
    expect(() => peers.sum(meta([4], "float8_e4m3fn"))).toThrow("ranks can't add up float8_e4m3fn");
    expect(() => peers.sum(meta([4, 2]).t())).toThrow("sum takes contiguous tensors");
    expect(() => peers.gather(meta([4]), meta([4]))).toThrow("gather from 3 ranks");
    expect(() => peers.gather(meta([4], "float8_e4m3fn"), meta([12]))).toThrow("gather from 3 ranks");
    expect(() => peers.exchange(meta([4]), meta([4]))).toThrow("3 equal parts");
    expect(() => peers.broadcast(meta([4]), 3)).toThrow("broadcast from rank 3: there are 3 ranks");
  });
});
