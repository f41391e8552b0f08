import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setImmediate } from "node:timers/promises";
import fc from "fast-check";
import { expect, test } from "vitest";
import { emptyOnHost, pendingCopies, startCopy, takeCopyTimes, timeCopies } from "./copies.ts";
import { empty, full, randn, zeros } from "./create.ts";
import { memoryStats } from "./device.ts";
import { mapFile } from "./files.ts";
import { addonFile } from "./install/libtorch.ts";
import { keep, scope, type Tensor } from "./tensor.ts";

const MIB = 2 ** 20;

/** Returns the live bytes in both pools of cpu. */
function liveBytes(): number {
  return memoryStats("cpu").liveBytes + memoryStats("cpu", "host").liveBytes;
}

test("a copy brings the data once it was waited for, from the host pool and back", () => {
  scope(() => {
    const source = randn([300, 7]);
    const host = emptyOnHost([300, 7], { device: "cpu" });
    startCopy(host, source).wait();
    const back = empty([300, 7]);
    startCopy(back, host).waitOnHost();
    expect(back.equal(source)).toBe(true);
  });
});

test("a copy is done at some time though nobody waits for it, and then is whole", async () => {
  const [source, host] = scope(
    () => [keep(randn([300, 7])), keep(emptyOnHost([300, 7], { device: "cpu" }))] as const,
  );
  const copy = startCopy(host, source);
  while (!copy.isDone) await setImmediate();
  expect(host.equal(source)).toBe(true);
  copy.wait();
  expect(copy.isDone).toBe(true);
  for (const tensor of [source, host]) tensor.dispose();
});

test("copies are timed where somebody asks: how long they took, and how long they were waited for", () => {
  scope(() => {
    const host = emptyOnHost([8 * MIB], { dtype: "uint8", device: "cpu" });
    const copyOnce = () => startCopy(host, zeros([8 * MIB], { dtype: "uint8" })).wait();
    copyOnce();
    expect(takeCopyTimes()).toEqual({ copies: 0, bytes: 0, copyMs: 0, waitedMs: 0 });
    timeCopies(true);
    for (let turn = 0; turn < 3; turn++) copyOnce();
    const { copies, bytes, copyMs, waitedMs } = takeCopyTimes();
    expect([copies, bytes]).toEqual([3, 24 * MIB]);
    expect(copyMs).toBeGreaterThan(0);
    expect(waitedMs).toBeGreaterThanOrEqual(0);
    copyOnce();
    timeCopies(false); // discards the times
    expect(takeCopyTimes().copies).toBe(0);
  });
});

test("a buffer on the host is booked to the host pool, on cpu and on meta", () => {
  for (const device of ["cpu", "meta"] as const) {
    const before = memoryStats(device, "host").liveBytes;
    using buffer = keep(emptyOnHost([1000], { dtype: "bfloat16", device }));
    expect(buffer.device).toBe(device);
    expect(memoryStats(device, "host").liveBytes - before).toBe(2000);
  }
});

test("weights come from a mapped file, which may be closed and deleted meanwhile", () => {
  const folder = mkdtempSync(join(tmpdir(), "lorafit-copies-"));
  const file = join(folder, "weights");
  const bytes = Uint8Array.from({ length: 3 * MIB + 5 }, (_, at) => (at * 31) % 251);
  writeFileSync(file, bytes);
  const mapped = mapFile(file);
  scope(() => {
    const to = empty([bytes.length - 3], { dtype: "uint8" });
    const copy = startCopy(to, mapped.tensor(3, "uint8", [bytes.length - 3]));
    mapped.close();
    rmSync(folder, { recursive: true });
    copy.wait();
    expect(Buffer.from(to.toBytes()).equals(Buffer.from(bytes.subarray(3)))).toBe(true);
  });
});

test("many copies, waited for in any order, with tensors disposed early, each bring their own data and leave nothing", () => {
  const before = liveBytes();
  const run = fc.record({
    elements: fc.array(fc.integer({ min: 0, max: 60_000 }), { maxLength: 40 }),
    seed: fc.nat(),
  });
  fc.assert(
    fc.property(run, ({ elements, seed }) => {
      const started = elements.map((count, index) =>
        scope(() => {
          const from = full([count], index);
          const to = zeros([count]);
          return { copy: startCopy(to, from), to: index % 3 === 0 ? undefined : keep(to), index };
        }),
      );
      expect(pendingCopies()).toBe(elements.length);
      const order = started.map((one, at) => ({ one, key: (at * 7919 + seed) % 101 }));
      order.sort((a, b) => a.key - b.key);
      for (const { one } of order) {
        one.copy.wait();
        using to = one.to;
        if (to) expect(scope(() => to.eq(one.index).all().item())).toBe(1);
      }
    }),
    { numRuns: 30 },
  );
  expect(pendingCopies()).toBe(0);
  expect(liveBytes()).toBe(before);
});

test("tensors live until the copy is waited for, on meta as on cpu, and no longer", () => {
  for (const device of ["cpu", "meta"] as const) {
    const before = memoryStats(device).liveBytes;
    const copy = scope(() => ({ pending: startCopy(empty([MIB], { device }), empty([MIB], { device })) }));
    expect(memoryStats(device).liveBytes - before).toBe(8 * MIB);
    copy.pending.wait();
    expect(memoryStats(device).liveBytes).toBe(before);
  }
});

test("a copy that nobody waited for is waited for by its `using`", () => {
  const before = liveBytes();
  const broken = () => {
    using _ = scope(() => startCopy(empty([MIB]), empty([MIB])));
    throw new Error("in between");
  };
  expect(broken).toThrow("in between");
  expect(pendingCopies()).toBe(0);
  expect(liveBytes()).toBe(before);
});

test("waiting twice is an error, disposing after it is none", () => {
  using copy = scope(() => startCopy(empty([4]), empty([4])));
  copy.wait();
  expect(() => copy.wait()).toThrow("the copy was waited for already");
});

test.each<[string, () => [Tensor, Tensor], RegExp]>([
  [
    "another shape",
    () => [empty([2, 3]), empty([3, 2])],
    /float32\[2, 3\] cpu.*dtype and shape must be the same/,
  ],
  ["another dtype", () => [empty([2]), empty([2], { dtype: "int32" })], /dtype and shape must be the same/],
  ["a transposed view", () => [empty([2, 3]), empty([3, 2]).t()], /takes contiguous tensors/],
  [
    "shared memory",
    () => ((x) => [x.narrow(0, 0, 4), x.narrow(0, 3, 4)])(empty([9])) as [Tensor, Tensor],
    /share memory/,
  ],
  ["a meta source", () => [empty([2]), empty([2], { device: "meta" })], /no data to copy/],
])("%s is refused at once", (_, tensors, message) => {
  const before = pendingCopies();
  expect(() => scope(() => startCopy(...tensors()))).toThrow(message);
  expect(pendingCopies()).toBe(before);
});

test("neighbouring slices of one tensor may be copied into each other", () => {
  scope(() => {
    const both = full([8], 1);
    both.narrow(0, 4, 4).fill_(2);
    startCopy(both.narrow(0, 0, 4), both.narrow(0, 4, 4)).wait();
    expect(both.sum().item()).toBe(16);
  });
});

test.each(["by itself", "by process.exit", "by an error"])(
  "a process with copies pending ends %s, at once and whole",
  (how) => {
    const end = {
      "by itself": "",
      "by process.exit": "process.exit(3)",
      "by an error": "throw new Error('end')",
    }[how];
    const script = `
    const engine = require(${JSON.stringify(addonFile)});
    const op = engine.resolve("aten::empty", "memory_format", []);
    const make = () => engine.call(op, [${64 * MIB}], 0, undefined, 0, undefined, undefined);
    for (let i = 0; i < 12; i++) engine.startCopy(make(), make());
    ${end}`;
    const { status, signal } = spawnSync(process.execPath, ["-e", script], { timeout: 240_000 });
    expect({ status, signal }).toEqual({
      status: { "by itself": 0, "by process.exit": 3, "by an error": 1 }[how],
      signal: null,
    });
  },
);
