import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { empty } from "../../torch/create.ts";
import { ALONE, plannedPeers } from "../../torch/peers/peers.ts";
import { scope } from "../../torch/tensor.ts";
import { traced } from "../../torch/trace.ts";
import { findDevice } from "./cards.ts";
import type { CpuSpeed } from "./cpuSpeed.ts";
import { type OpCall, type OpTrace, traceOp } from "./opCost.ts";
import {
  type CardSpeed,
  hiddenShare,
  linkBytesOf,
  opTimeMs,
  speedOf,
  stepTimeMs,
  stretchesTimeMs,
  sumTimeMs,
} from "./stepTime.ts";

const half = (...shape: number[]) => ({ shape, dtype: "bfloat16" }) as const;
const wide = (...shape: number[]) => ({ shape, dtype: "float32" }) as const;
const index = (...shape: number[]) => ({ shape, dtype: "int64" }) as const;
const host = (...shape: number[]) => ({ shape, dtype: "bfloat16", place: "host" }) as const;

/** 1 PFLOP/s, 1 TB/s, a link of 100 GB/s, no launches: times can be read directly. */
const round: CardSpeed = {
  flopsPerSecond: { float32: 1e14, bfloat16: 1e15 },
  attentionRatios: { flash: 0.5, cudnn: 0.8, efficient: 0.25 },
  memoryBytesPerSecond: 1e12,
  linkBytesPerSecond: 1e11,
  ...{ kernelMs: 0, launchMs: 0, callMs: 0 },
};

describe("the cost of an op", () => {
  type Case = [claim: string, call: OpCall, expected: Partial<OpTrace>];
  // biome-ignore format: a case a line
  const cases: Case[] = [
    ["mm does 2 M K N", { op: "mm", inputs: [half(8, 32), half(32, 4)], outputs: [half(8, 4)] }, { kind: "matmul", flops: 2 * 8 * 32 * 4, bytes: 2 * (8 * 32 + 32 * 4 + 8 * 4), dtype: "bfloat16" }],
    ["addmm_ reads what it adds to, and contracts its first factor", { op: "addmm_", inputs: [half(8, 4), half(8, 32), half(32, 4)], outputs: [half(8, 4)] }, { flops: 2 * 8 * 32 * 4, bytes: 2 * (8 * 4 + 8 * 32 + 32 * 4 + 8 * 4) }],
    ["bmm does every batch", { op: "bmm", inputs: [half(5, 8, 32), half(5, 32, 4)], outputs: [half(5, 8, 4)] }, { flops: 5 * 2 * 8 * 32 * 4 }],
    ["linear takes rows of any shape, and its weight lies (out, in)", { op: "linear", inputs: [half(2, 3, 32), half(7, 32)], outputs: [half(2, 3, 7)] }, { flops: 2 * 2 * 3 * 32 * 7 }],
    ["a matmul of float32 runs in float32", { op: "mm", inputs: [wide(2, 2), wide(2, 2)], outputs: [wide(2, 2)] }, { dtype: "float32" }],
    ["conv2d contracts channels and window", { op: "conv2d", inputs: [half(1, 3, 28, 28), half(16, 3, 14, 14)], outputs: [half(1, 16, 2, 2)] }, { flops: 2 * 16 * 2 * 2 * 3 * 14 * 14 }],
    ["an op that is not known costs its bytes", { op: "fancy.Tensor", inputs: [wide(4), half(4)], outputs: [wide(4)] }, { name: "fancy", kind: "memory", flops: 0, bytes: 16 + 8 + 16 }],
    ["add_ reads both and writes one", { op: "add_.Tensor", inputs: [half(10), half(10)], outputs: [half(10)] }, { bytes: 60 }],
    ["copy_ does not read what it overwrites", { op: "copy_", inputs: [half(10), wide(10)], outputs: [half(10)] }, { bytes: 40 + 20, stream: "compute" }],
    ["zeros only writes", { op: "zero_", inputs: [half(10)], outputs: [half(10)] }, { bytes: 20 }],
    ["an embedding reads the rows that it takes", { op: "embedding", inputs: [half(92544, 4096), index(7)], outputs: [half(7, 4096)] }, { bytes: 2 * 7 * 4096 * 2 + 56 }],
    ["index_add_ touches the rows that it adds to", { op: "index_add_", inputs: [half(9999, 8), index(3), half(3, 8)], outputs: [half(9999, 8)] }, { bytes: 24 + 3 * 48 }],
    ["a view costs nothing", { op: "narrow", inputs: [half(10)], outputs: [half(5)] }, { kind: "none", bytes: 0 }],
    ["a reshape that shares memory costs nothing", { op: "reshape", inputs: [{ ...half(10), storage: 4 }], outputs: [{ ...half(2, 5), storage: 4 }] }, { kind: "none" }],
    ["a reshape that copies costs its bytes", { op: "reshape", inputs: [{ ...half(10), storage: 4 }], outputs: [{ ...half(2, 5), storage: 5 }] }, { bytes: 40 }],
    ["a fetch moves the host's bytes on the copy stream", { op: "copy_", inputs: [half(10), host(10)], outputs: [half(10)] }, { stream: "copy", bytes: 20 }],
    ["so does a store to the host", { op: "copy_", inputs: [host(10), half(10)], outputs: [host(10)] }, { stream: "copy", bytes: 20, toHost: true }],
    ["work on the host alone is the host's", { op: "mul", inputs: [host(10)], outputs: [host(10)] }, { kind: "memory", stream: "host" }],
    ["a product tells its sizes and how its factors lie", { op: "mm", inputs: [half(8, 32), { ...half(32, 4), strided: true }], outputs: [half(8, 4)] }, { form: { dtypes: "bfloat16", elements: 256, strided: true, product: { times: 1, m: 8, k: 32, n: 4, layout: "a b'" } } }],
    ["a cast tells both dtypes", { op: "to.dtype", inputs: [half(10)], outputs: [wide(10)] }, { form: { dtypes: "bfloat16,float32", elements: 10, strided: false, product: undefined } }],
  ];
  it.each(cases)("%s", (_, call, expected) => {
    expect(traceOp(call)).toMatchObject(expected);
  });

  const heads = (tokens: number) => half(8, 4, tokens, 128);
  const attention = (op: string, tokens: number, causal: boolean): OpTrace =>
    traceOp({ op, causal, inputs: [heads(tokens), heads(tokens), heads(tokens)], outputs: [heads(tokens)] });

  it("attention does 4 D FLOPs a pair of query and key that see each other", () => {
    const op = "_scaled_dot_product_flash_attention";
    expect(attention(op, 100, false)).toMatchObject({ kind: "attention", flops: 4 * 128 * 32 * 100 * 100 });
    expect(attention(op, 100, true).flops).toBe(4 * 128 * 32 * 5050);
  });

  it("attention backward does 2.5 times the forward's FLOPs", () => {
    const forward = attention("_scaled_dot_product_flash_attention_for_cpu", 64, true);
    const backward = traceOp({
      op: "_scaled_dot_product_flash_attention_for_cpu_backward",
      causal: true,
      inputs: [heads(64), heads(64), heads(64), heads(64), heads(64), wide(8, 4, 64)],
      outputs: [heads(64), heads(64), heads(64)],
    });
    expect(backward.flops).toBe(2.5 * forward.flops);
  });

  it("packed attention costs as much as its samples one by one", () => {
    const packed = half(300, 32, 128); // (T, H, D)
    const call = {
      op: "_flash_attention_forward",
      causal: true,
      inputs: [packed, packed, packed],
      outputs: [packed],
    };
    const pairs = (100 * 101) / 2 + (200 * 201) / 2;
    expect(traceOp({ ...call, sampleTokens: [100, 200] }).flops).toBe(4 * 128 * 32 * pairs);
    expect(traceOp(call).flops).toBe((4 * 128 * 32 * 300 * 301) / 2);
  });
});

describe("attention of the last rows alone", () => {
  it("costs what they see, of one sample or of several", () => {
    const [queries, keys] = [half(1, 40, 32, 128), half(1, 100, 32, 128)]; // (B, T, H, D)
    const pairs = (100 * 101 - 60 * 61) / 2;
    for (const op of ["_flash_attention_forward", "_efficient_attention_forward"]) {
      const call = { op, causal: true, inputs: [queries, keys, keys], outputs: [queries] };
      expect(traceOp(call).flops).toBe(4 * 128 * 32 * pairs);
    }
    const packed = {
      op: "_flash_attention_backward",
      causal: true,
      inputs: [half(240, 32, 128), half(240, 32, 128), half(300, 32, 128), half(300, 32, 128)],
      outputs: [half(240, 32, 128)],
      sampleTokens: [100, 200],
    };
    expect(traceOp(packed).flops).toBe(10 * 128 * 32 * (pairs + (200 * 201) / 2));
  });
});

describe("the time of a step", () => {
  const op = (part: Partial<OpTrace>): OpTrace => ({
    name: "op",
    kind: "memory",
    flops: 0,
    bytes: 0,
    dtype: "bfloat16",
    stream: "compute",
    ...part,
  });

  it("of an op is the longer of arithmetic and traffic", () => {
    expect(opTimeMs(op({ kind: "matmul", flops: 2e12, bytes: 1e9 }), round)).toBeCloseTo(2, 9);
    expect(opTimeMs(op({ kind: "matmul", flops: 2e12, bytes: 5e9 }), round)).toBeCloseTo(5, 9);
    expect(opTimeMs(op({ kind: "attention", flops: 2e12 }), round)).toBeCloseTo(4, 9);
    expect(opTimeMs(op({ kind: "none" }), { ...round, kernelMs: 1 })).toBe(0);
    expect(opTimeMs(op({}), { ...round, kernelMs: 1 })).toBe(1);
  });

  it("of attention is its kernel's", () => {
    const attention = (name: string): number => opTimeMs(op({ name, kind: "attention", flops: 1e12 }), round);
    expect(attention("_flash_attention_forward")).toBeCloseTo(2, 9);
    expect(attention("_scaled_dot_product_cudnn_attention")).toBeCloseTo(1.25, 9);
    expect(attention("_scaled_dot_product_efficient_attention_backward")).toBeCloseTo(4, 9);
  });

  it("is no shorter than issuing its calls, which else goes on beside what was issued before", () => {
    const slowHost = { ...round, launchMs: 1, callMs: 0.25 };
    const [kernel, view] = [op({ bytes: 5e8 }), op({ kind: "none" })];
    expect(stepTimeMs([kernel, kernel, view, view], slowHost)).toBeCloseTo(2.5, 9);
    expect(stepTimeMs([kernel, op({ bytes: 3e9 }), view], slowHost)).toBeCloseTo(3.5, 9);
    expect(hiddenShare([[kernel, op({ bytes: 2e7, stream: "copy" })]], slowHost)).toBe(1);
  });

  it("takes a dtype without a rate as float32, and cards without bf16 at their rate of fp16", () => {
    expect(opTimeMs(op({ kind: "matmul", flops: 1e12, dtype: "float16" }), round)).toBeCloseTo(10, 9);
    const p100 = speedOf(findDevice("p100")).flopsPerSecond;
    expect(p100.bfloat16).toBe(p100.float32); // fp16 is faster only if the sums are in fp16 too
    const v100 = speedOf(findDevice("v100-32gb")).flopsPerSecond;
    expect(v100.bfloat16).toBe(v100.float16);
    expect(v100.float16).toBeCloseTo(1e14, -9);
  });

  it("hides transfers behind arithmetic, up to their length", () => {
    const compute = op({ kind: "matmul", flops: 3e12 });
    const transfer = op({ bytes: 2e8, stream: "copy" });
    expect(stepTimeMs([compute, transfer], round)).toBeCloseTo(3, 9);
    expect(stepTimeMs([compute, transfer, transfer], round)).toBeCloseTo(4, 9);
  });

  it("counts copies in either direction apart, for a card's link carries both at once; on a CPU one thread makes them all", () => {
    const [fetch, store] = [
      op({ bytes: 3e8, stream: "copy" }),
      op({ bytes: 2e8, stream: "copy", toHost: true }),
    ];
    expect(stepTimeMs([fetch, store], round)).toBeCloseTo(3, 9);
    expect(stepTimeMs([fetch, store, store], round)).toBeCloseTo(4, 9);
    const curve = { sizes: [1e8], ms: [1] };
    const cpu = { curves: { "add float32": curve }, copies: curve, copyShare: 0.5, viewMs: 0 };
    const compute = op({ bytes: 1.2e9 });
    expect(stepTimeMs([fetch, store], cpu as unknown as CpuSpeed)).toBeCloseTo(5, 9);
    expect(
      stepTimeMs([compute, compute, compute, compute, compute, fetch, store], cpu as unknown as CpuSpeed),
    ).toBeCloseTo(7.5, 9);
  });

  it("tells the part of the copies that nothing waits for: all that arithmetic covers, none of what it waits for", () => {
    const compute = op({ kind: "matmul", flops: 3e12 });
    const [fetch, wait] = [op({ bytes: 2e8, stream: "copy" }), op({ bytes: 2e8, stream: "exposed" })];
    const store = op({ bytes: 2e8, stream: "copy", toHost: true });
    expect(hiddenShare([[compute, fetch, store]], round)).toBe(1);
    expect(hiddenShare([[compute, fetch, store, wait]], round)).toBeCloseTo(0.5, 9);
    expect(hiddenShare([[compute, fetch], [fetch]], round)).toBeCloseTo(0.5, 9);
    expect(hiddenShare([[compute]], round)).toBeUndefined();
  });

  it("leaves out what the host computes beside a card", () => {
    expect(opTimeMs(op({ bytes: 1e9, stream: "host" }), round)).toBe(0);
  });

  it("adds to the arithmetic the transfers that it waits for, as long as the copies by themselves don't take longer", () => {
    const compute = op({ kind: "matmul", flops: 3e12 });
    const [transfer, wait] = [op({ bytes: 2e8, stream: "copy" }), op({ bytes: 2e8, stream: "exposed" })];
    expect(stepTimeMs([compute, transfer, wait], round)).toBeCloseTo(5, 9);
    expect(stepTimeMs([compute, transfer, transfer, transfer, wait], round)).toBeCloseTo(6, 9);
  });

  it("hides gathers among ranks behind arithmetic, and adds what is waited for at once; alone they cost nothing", () => {
    const link = { name: "test", span: "cards", bytesPerSecond: 1e11, hopMs: 0, source: "test" } as const;
    const speed = { ...round, wiring: { count: 2, perMachine: 2, link } };
    const compute = op({ kind: "matmul", flops: 3e12 });
    const gather = op({ bytes: 4e8, stream: "link", collective: { kind: "gather", ranks: 2 } }); // half of it is another rank's: 2 ms
    const exchange = op({ bytes: 4e8, stream: "link", collective: { kind: "exchange", ranks: 2 } });
    expect(stepTimeMs([compute, gather], speed)).toBeCloseTo(3, 9);
    expect(stepTimeMs([compute, gather, gather], speed)).toBeCloseTo(4, 9);
    expect(stepTimeMs([compute, exchange], speed)).toBeCloseTo(5, 9);
    expect(stepTimeMs([compute, exchange], round)).toBeCloseTo(3, 9);
    expect(linkBytesOf([compute, { ...gather, count: 3 }, exchange])).toBe(8e8);
  });

  it("takes the longer of computing and gathers in each layer, after the gather that nothing computes beside", () => {
    const link = { name: "test", span: "cards", bytesPerSecond: 1e11, hopMs: 0, source: "test" } as const;
    const speed = { ...round, wiring: { count: 2, perMachine: 2, link } };
    const compute = (ms: number) => op({ kind: "matmul", flops: ms * 1e12 });
    const collective = { kind: "gather", ranks: 2 } as const;
    const gather = op({ bytes: 4e8, stream: "link", collective }); // 2 ms
    const exposed = { ...gather, collective: { ...collective, isExposed: true } };
    const layers = [[gather, exposed, gather, compute(1)], [gather, compute(3)], [compute(1)]];
    expect(stretchesTimeMs(layers, speed)).toBeCloseTo(2 + 2 + 3 + 1, 9);
    expect(stepTimeMs(layers.flat(), speed)).toBeCloseTo(2 + 5, 9); // as if any layer could hide any gather
    expect(
      stretchesTimeMs(
        [
          [
            { ...gather, count: 5 },
            { ...compute(3), count: 5 },
          ],
        ],
        speed,
      ),
    ).toBeCloseTo(15, 9);
    expect(stretchesTimeMs(layers, round)).toBeCloseTo(5, 9);
    expect(linkBytesOf(layers.flat())).toBe(3 * 2e8);
  });

  it("waits for what is left of the sum of gradients after all layers but the first, and for what follows", () => {
    const link = { name: "test", span: "cards", bytesPerSecond: 1e11, hopMs: 0, source: "test" } as const;
    const speed = { ...round, wiring: { count: 2, perMachine: 2, link } };
    const sent = (isOverlapped: boolean, count: number) => ({
      ...op({ bytes: 4e8, stream: "link", collective: { kind: "exchange", ranks: 2, isOverlapped } }), // 2 ms
      count,
    });
    const update = op({ kind: "matmul", flops: 9e12 });
    const trace = [sent(true, 4), sent(false, 1), update];
    const sumMs = (backwardMs: number) => sumTimeMs(trace, { backwardMs, layers: 4 }, speed);
    expect(sumMs(4)).toBeCloseTo(8 - 3 + 2, 9);
    expect(sumMs(100)).toBeCloseTo(2, 9);
    expect(linkBytesOf(trace)).toBe(5 * 2e8);
  });

  it("knows a rank's collectives by their result", () => {
    const names = ["sum", "gather", "exchange", "broadcast"] as const;
    const calls = traced("meta", (take) => {
      const peers = plannedPeers(1, 4);
      scope(() => {
        const [part, whole] = [1, 4].map((parts) => empty([100 * parts], { device: "meta" }));
        peers.sum(whole!).wait();
        peers.gather(part!, whole!).wait();
        peers.exchange(whole!, whole!).wait();
        peers.broadcast(whole!, 0).wait();
      });
      return take().calls();
    });
    const collectives = calls.map(traceOp).filter(({ stream }) => stream === "link");
    expect(collectives.map(({ collective, bytes }) => [collective, bytes])).toEqual(
      names.map((kind) => [{ kind, ranks: 4 }, 1600]),
    );
    const alone = traced("meta", (take) => {
      scope(() => ALONE.sum(empty([100], { device: "meta" })).wait());
      return take().calls();
    });
    expect(alone.map(traceOp).filter(({ stream }) => stream === "link")).toEqual([]);
  });

  it("puts an H200 at 80 % of its peak on a large matmul", () => {
    const size = 8192;
    const square = half(size, size);
    const ms = opTimeMs(
      traceOp({ op: "mm", inputs: [square, square], outputs: [square] }),
      speedOf(findDevice("h200")),
    );
    expect((2 * size ** 3) / (ms / 1e3) / 989e12).toBeCloseTo(0.8, 2);
  });

  it("never grows with a faster device", () => {
    const trace = fc.array(
      fc.record({
        name: fc.constant("op"),
        kind: fc.constantFrom("matmul", "attention", "memory", "none"),
        flops: fc.nat(),
        bytes: fc.nat(),
        dtype: fc.constantFrom("bfloat16", "float32"),
        stream: fc.constantFrom("compute", "copy", "host"),
      }),
    ) as fc.Arbitrary<OpTrace[]>;
    const faster = (by: number): CardSpeed => ({
      ...round,
      flopsPerSecond: { float32: by * 1e14, bfloat16: by * 1e15 },
      memoryBytesPerSecond: by * 1e12,
      linkBytesPerSecond: by * 1e11,
    });
    fc.assert(
      fc.property(trace, fc.double({ min: 1, max: 10, noNaN: true }), (ops, by) => {
        const ms = stepTimeMs(ops, round);
        expect(stepTimeMs(ops, faster(by))).toBeLessThanOrEqual(ms);
        expect(stepTimeMs(ops, faster(by))).toBeGreaterThanOrEqual((ms / by) * (1 - 1e-9));
      }),
    );
  });
});
